"""The embedded data set for detection: drawn scenes in COCO's layout, made on first use; nothing to download."""

import json
import os
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np

from lampq.datasets.coco import Coco
from lampq.datasets.coco_annotations import run_lengths
from lampq.datasets.shape_scenes import (
    CALIBRATION_SEED,
    CHUNK,
    OUTLINES,
    REVISION,
    VALIDATION_SEED,
    Scene,
    draw_scenes,
)
from lampq.errors import LampQError
from lampq.limits import text
from lampq.models.adapter import ModelAdapter
from lampq.progress import progress
from lampq.storage.fingerprint import fingerprint
from lampq.storage.lock import hold

IMAGES = {"train": (CALIBRATION_SEED, 500), "val": (VALIDATION_SEED, 300)}
"""The stream and the number of scenes of each part."""
CATEGORIES = [{"id": 2 * label + 1, "name": outline} for label, outline in enumerate(OUTLINES)]
"""Ids have gaps, as COCO's have."""


class ShapesCoco(Coco):
    """Scenes of overlapping shapes, 500 for training and 300 for validation, of three sizes; the class is the outline.

    Args:
        cache: folder in which they are kept, in `shapes_coco/`.
        calibration_images, sample_images, validation_images, batch_size, judged_by: see `lampq.datasets.coco.Coco`.
    """

    name = "shapes_coco"
    folders: ClassVar[dict[str, str]] = {"train": "train", "val": "val"}
    full_validation_images = IMAGES["val"][1]
    drawn = None
    apart = False  # as of the shapes for classification

    def __init__(
        self,
        cache: str,
        calibration_images: int = 8,
        sample_images: int = 64,
        validation_images: int | None = None,
        batch_size: int = 1,
        judged_by: str = "loss",
    ) -> None:
        root = Path(text("dataset.cache", cache)) / "shapes_coco" / f"revision{REVISION}"
        super().__init__(
            str(root),
            calibration_images,
            sample_images,
            validation_images,
            image_scale=None,
            batch_size=batch_size,
            judged_by=judged_by,
        )

    def check_layout(self) -> None:
        """The layout is there from the first `bind` on."""

    def bind(self, adapter: ModelAdapter) -> None:
        """Draw the scenes, where no run before has, and check that the model is a detector of these classes.

        Raises:
            LampQError: it is not.
        """
        draw_data_set(self.root)
        super().bind(adapter)

    def remedy(self, split: str) -> str:
        return f"remove the folder {self.root}: it is made again"

    def _decode(self, path: Path) -> np.ndarray:
        """As of COCO; what is read is what was drawn, so that the drawing's revision identifies it."""
        pixels = super()._decode(path)
        (scene,) = draw_scenes(1, IMAGES[path.parent.name][0], int(path.stem) - 1)
        if not np.array_equal(pixels[:, :, ::-1], scene.image):
            raise LampQError(f"image {path} is not as it was drawn; {self.remedy(path.parent.name)}")
        return pixels

    def _known_by(self, names: list[str], root: Path) -> dict:
        # Drawn anew elsewhere, the same pixels may be packed in other bytes.
        known = {"dataset": self.name, "revision": REVISION, "list": fingerprint(names)}
        return {**known, "images": len(names), "preprocessing": self.preprocessing}


def draw_data_set(root: Path) -> None:
    """Make the data set: ``train/*.png``, ``val/*.png`` and ``annotations/``; nothing where it is there already.

    The folder appears in one move when all is written, however often that was begun and by how many processes.
    """
    if root.is_dir():
        return
    with hold(root.with_name(f"{root.name}.lock"), f"the drawing of {root}"):
        if root.is_dir():
            return
        partial = root.with_name(f"{root.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "annotations").mkdir(parents=True)
        bar = progress(
            description="drawing scenes", total=sum(count for _, count in IMAGES.values()), unit="images", delay=2
        )
        with bar:
            for split, (stream, count) in IMAGES.items():
                (partial / split).mkdir()
                images, annotations = [], []
                for start in range(0, count, CHUNK):
                    scenes = draw_scenes(min(CHUNK, count - start), stream, start)
                    for number, scene in enumerate(scenes, start=start + 1):
                        images.append(_write_image(partial / split, number, scene))
                        annotations += _described(number, scene, first=len(annotations) + 1)
                    bar.update(len(scenes))
                content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
                (partial / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        os.replace(partial, root)


def _write_image(folder: Path, number: int, scene: Scene) -> dict:
    from PIL import Image

    height, width = scene.image.shape[:2]
    name = f"{number:012d}.png"
    Image.fromarray(scene.image).save(folder / name)
    return {"id": number, "file_name": name, "height": height, "width": width}


def _described(number: int, scene: Scene, first: int) -> list[dict]:
    """COCO's annotations of a scene, numbered from `first` on."""
    rows = []
    for label, mask, (left, top, right, bottom) in zip(scene.labels, scene.masks, scene.boxes.tolist(), strict=True):
        rows.append(
            {
                "id": first + len(rows),
                "image_id": number,
                "category_id": CATEGORIES[label]["id"],
                "bbox": [left, top, right - left, bottom - top],
                "area": int(mask.sum()),
                "segmentation": run_lengths(mask),
                "iscrowd": 0,
            }
        )
    return rows
