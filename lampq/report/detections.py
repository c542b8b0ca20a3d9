"""Detections in a few images, before and after quantization, side by side."""

from pathlib import Path

import numpy as np
import torch

from lampq.datasets.coco import MEAN, STD
from lampq.models.detection.pictures import Detections, ImageState, SideBySide
from lampq.report.style import drawn, new_figure, rendered
from lampq.storage.atomic_write import write_bytes

SMALLEST_SCORE = 0.3
"""Detections with a lower score are not drawn."""


def show_detections(shown: SideBySide | None, folder: Path) -> None:
    """Draw ``detections.png`` in a run's folder, of a detector's run."""
    if shown is not None:
        drawn(draw_detections, shown, folder / "detections.png")


def draw_detections(shown: SideBySide, path: Path) -> None:
    """A row an image, full precision on the left, quantized on the right; boxes, masks, classes and scores.

    Args:
        shown: the images and what is found in them.
        path: the PNG; its folder exists.
    """
    figure = new_figure(figsize=(9, 3.4 * len(shown.images)), layout="constrained")
    axes = figure.subplots(len(shown.images), 2, squeeze=False)
    for row, image in enumerate(shown.images):
        pictures = (("full precision", shown.full_precision[row]), ("quantized (simulated)", shown.quantized[row]))
        for axis, (title, detections) in zip(axes[row], pictures, strict=True):
            _draw(axis, _pixels(image), detections, image.meta["scale_factor"], shown.names)
            axis.set_title(f"image {image.meta['img_id']}, {title}", fontsize=9)
    write_bytes(path, rendered(figure, "png", dpi=110))


def _pixels(image: ImageState) -> np.ndarray:
    """``[height, width, 3]`` in [0, 1], without padding."""
    height, width = image.meta["img_shape"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    pixels = (image.x.cpu() * std + mean)[:, :height, :width] / 255
    return pixels.clamp(0, 1).permute(1, 2, 0).numpy()


def _draw(axis, pixels: np.ndarray, detections: Detections, scale: tuple[float, float], names: list[str]) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle
    from pycocotools import mask as run_lengths

    axis.set_axis_off()
    colours = colormaps["tab10"]
    picture = pixels.copy()
    kept = [number for number, score in enumerate(detections.scores.tolist()) if score >= SMALLEST_SCORE]
    height, width = pixels.shape[:2]
    for number in kept:
        colour = np.array(colours(int(detections.labels[number]) % 10)[:3], dtype=picture.dtype)
        mask = run_lengths.decode(detections.masks[number]).astype(bool)
        # The picture has the detector's size, the mask that of the original.
        rows = np.minimum((np.arange(height) / scale[1]).astype(int), mask.shape[0] - 1)
        columns = np.minimum((np.arange(width) / scale[0]).astype(int), mask.shape[1] - 1)
        picture[mask[rows][:, columns]] = 0.5 * picture[mask[rows][:, columns]] + 0.5 * colour
    axis.imshow(picture)
    for number in kept:
        left, top, right, bottom = detections.boxes[number].tolist()
        label = int(detections.labels[number])
        colour, (x, y) = colours(label % 10), scale
        corner = (left * x, top * y)
        axis.add_patch(Rectangle(corner, (right - left) * x, (bottom - top) * y, fill=False, edgecolor=colour))
        axis.text(*corner, f"{names[label]} {detections.scores[number]:.2f}", fontsize=6, color="white", va="bottom")
        axis.texts[-1].set_bbox({"facecolor": colour, "edgecolor": "none", "pad": 1})
