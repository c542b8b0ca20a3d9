"""The contact sheet and the curves of synthetic images."""

import csv

import numpy as np
from PIL import Image

from lampq.report.synthesis import GAP, contact_sheet, draw_synthesis


def test_a_contact_sheet_shows_every_image_in_order(tmp_path):
    images = np.arange(11, dtype=np.uint8)[:, None, None, None] * np.full((11, 120, 120, 3), 20, dtype=np.uint8)
    contact_sheet(images, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 120 + GAP, 8 * 120 + 7 * GAP, 3)
    for index in range(11):
        row, column = divmod(index, 8)
        tile = sheet[row * (120 + GAP) :, column * (120 + GAP) :][:120, :120]
        assert (tile == index * 20).all()
    assert (sheet[-120:, 3 * (120 + GAP) :] == 255).all()
    assert list(tmp_path.iterdir()) == [tmp_path / "sheet.png"]


def test_small_images_are_enlarged_without_blur(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3), dtype=np.uint8)
    contact_sheet(pixels, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (120, 120, 3) and np.array_equal(sheet[1::3, 1::3], pixels[0])


def test_curves_are_written_with_their_numbers(tmp_path):
    rows = [
        {"batch": batch, "step": step, "entropy": step, "class_loss": 9 - step, "total_variation": 5.5}
        for batch in range(2)
        for step in range(3)
    ]
    draw_synthesis(rows, tmp_path / "synthesis.png")
    assert (tmp_path / "synthesis.png").stat().st_size > 0 and (tmp_path / "synthesis.pdf").stat().st_size > 0
    with (tmp_path / "synthesis.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == 6 and read[4]["class_loss"] == "8" and list(read[0]) == list(rows[0])
