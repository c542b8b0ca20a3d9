"""Images that were made, drawn: a contact sheet of them, and what the optimisation that made them went through."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lampq.datasets.base import MadeBatch
from lampq.report.style import PALETTE, drawn, panels, save
from lampq.storage.atomic_write import write_whole

COLUMNS = 8
"""Images beside each other on a contact sheet."""
GAP = 2
"""Pixels between them."""
SMALLEST_SIDE = 112
"""Smaller images are shown with each pixel as a square."""
MEASURES = {
    "entropy": "patch similarity entropy (nats)",
    "class_loss": "cross-entropy to the class (nats)",
    "total_variation": "total variation",
}


def show_synthesis(batches: Sequence[MadeBatch], folder: Path) -> None:
    """Show images that were made in a run's folder; nothing where none were.

    Writes for each batch its tensors and a contact sheet to ``synthetic_images/``, and what the optimisation went
    through to ``synthesis.csv``, ``.png`` and ``.pdf``.
    """
    if not batches:
        return
    shown_in = folder / "synthetic_images"
    shown_in.mkdir(parents=True, exist_ok=True)
    for batch in batches:
        sheet = batch.file.with_suffix(".png")
        if not sheet.is_file():
            drawn(contact_sheet, batch.colours, sheet)
        for source in filter(Path.is_file, (batch.file, sheet)):
            _link(source, shown_in / f"batch{batch.number}{source.suffix}")
    drawn(draw_synthesis, [row for batch in batches for row in batch.history], folder / "synthesis.png")


def contact_sheet(images: np.ndarray, path: Path) -> None:
    """Write images side by side as one PNG.

    Args:
        images: colours from 0 to 255, uint8 ``[images, height, width, 3]``.
        path: of the PNG; its folder is there.
    """
    from PIL import Image

    enlarge = -(-SMALLEST_SIDE // images.shape[2])
    images = images.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
    count, height, width, _ = images.shape
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    write_whole(path, lambda temporary: Image.fromarray(sheet).save(temporary, format="PNG"))


def draw_synthesis(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the losses against steps, a line for each batch, and write them as PNG, PDF and CSV.

    Args:
        rows: one a batch and step: ``batch``, ``step`` and the `MEASURES`, maybe more.
        path: of the PNG.
    """
    figure, axes = panels(len(MEASURES))
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    for batch in batches:
        mine = [row for row in rows if row["batch"] == batch]
        colour = PALETTE[batch % len(PALETTE)]
        for each, measure in zip(axes, MEASURES, strict=True):
            values = [row[measure] for row in mine]
            each.plot([row["step"] for row in mine], values, color=colour, linewidth=0.9, label=f"batch {batch}")
    for each, title in zip(axes, MEASURES.values(), strict=True):
        each.set_xlabel("step", fontsize=9)
        each.set_title(title, fontsize=10)
    if 1 < len(batches) <= len(PALETTE):
        axes[0].legend(frameon=False, fontsize=8)
    save(figure, path, list(rows))


def _link(source: Path, target: Path) -> None:
    """Put a file of the store into a run's folder, without a second copy where the file system can do so."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
