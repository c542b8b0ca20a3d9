"""How figures look and what is written of them."""

import csv
import itertools

import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from lampq.report.style import MARKERS, PALETTE, line, panels, save
from lampq.storage.atomic_write import write_rows

ROWS = [{"x": 1, "y": 2.5}, {"x": 2, "z": None}]


def test_a_figure_is_a_png_a_pdf_and_its_numbers(tmp_path):
    figure, axes = panels(2)
    line(axes[0], [1, 2], [3, 4], "a", 0)
    save(figure, tmp_path / "new" / "figure.png", ROWS)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["figure.csv", "figure.pdf", "figure.png"]
    with Image.open(tmp_path / "new" / "figure.png") as image:
        image.load()
        assert image.format == "PNG" and image.width > image.height > 200
    assert (tmp_path / "new" / "figure.pdf").read_bytes().startswith(b"%PDF")
    with (tmp_path / "new" / "figure.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["x", "y", "z"], ["1", "2.5", ""], ["2", "", ""]]


def test_equal_figures_are_equal_files_and_without_numbers_there_is_no_csv(tmp_path):
    for name in ("a", "b"):
        figure, axes = panels(1)
        line(axes[0], [1, 2], [3, 4], "a", 0, [0.5, 0.5])
        save(figure, tmp_path / f"{name}.png")
    for ending in ("png", "pdf"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    assert not list(tmp_path.glob("*.csv"))


def test_colours_are_told_apart_by_lightness_or_hue_and_each_has_a_shape():
    assert len(set(PALETTE)) == len(PALETTE) == len(set(MARKERS)) == len(MARKERS)
    for one, other in itertools.combinations(map(to_rgb, PALETTE), 2):
        assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) > 0.3


@pytest.mark.parametrize("errors", [None, [0.5, 0.25]])
def test_a_series_has_its_colour_its_shape_and_its_label(errors):
    _, (axes,) = panels(1)
    for index in (1, 1 + len(PALETTE)):
        line(axes, [0, 1], [5, 6], f"number {index}", index, errors)
    drawn = axes.lines if errors is None else [container.lines[0] for container in axes.containers]
    assert [(d.get_color(), d.get_marker()) for d in drawn] == [(PALETTE[1], MARKERS[1])] * 2
    assert axes.get_legend_handles_labels()[1] == ["number 1", f"number {1 + len(PALETTE)}"]
    assert list(drawn[0].get_ydata()) == [5, 6]


def test_panels_may_share_their_scale():
    _, axes = panels(2, share_y=True)
    axes[0].set_ylim(3, 7)
    assert axes[1].get_ylim() == (3, 7)
    _, apart = panels(2)
    apart[0].set_ylim(3, 7)
    assert apart[1].get_ylim() != (3, 7)


def test_no_rows_are_an_empty_file(tmp_path):
    write_rows(tmp_path / "rows.csv", [])
    assert (tmp_path / "rows.csv").read_text().strip() == ""
