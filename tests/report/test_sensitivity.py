"""What single components cost, drawn."""

from matplotlib.figure import Figure
from PIL import Image

from lampq.report.sensitivity import draw_sensitivity, draw_unit
from lampq.report.style import PALETTE, panels
from lampq.runs.record import read_sensitivity
from lampq.storage.atomic_write import write_rows
from tests.experiments.results_folder import components

UNITS = {"layers": ("qkv", "proj", "fc1", "fc2"), "modules": ("MSA", "MLP"), "blocks": ("block",)}


def test_a_measurement_is_a_png_and_a_pdf(tmp_path):
    draw_sensitivity(components({"layers": ("qkv", "fc1")}), tmp_path / "sensitivity.png")
    with Image.open(tmp_path / "sensitivity.png") as image:
        image.load()
        assert image.format == "PNG"
    assert (tmp_path / "sensitivity.pdf").read_bytes().startswith(b"%PDF")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sensitivity.pdf", "sensitivity.png"]


def test_there_is_a_panel_for_each_unit_that_was_measured(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: seen.append(figure))
    draw_sensitivity(components(UNITS), tmp_path / "x.png")
    assert [axes.get_title() for axes in seen[0].axes] == ["layers", "modules", "blocks"]
    draw_sensitivity(components({"blocks": ("block",)}), tmp_path / "x.png")
    assert [axes.get_title() for axes in seen[-1].axes] == ["blocks"]


def test_each_type_is_a_line_over_the_blocks_with_its_errors():
    rows = components(UNITS, blocks=3, base=90.0, drop=2.0)
    _, (axes,) = panels(1)
    draw_unit(axes, rows, "layers")
    assert axes.get_legend_handles_labels()[1] == ["without it", *UNITS["layers"]]
    assert set(axes.lines[0].get_ydata()) == {90.0} and axes.lines[0].get_linestyle() == "--"
    for place, container in enumerate(axes.containers):
        drawn, _, bars = container.lines
        assert list(drawn.get_xdata()) == [0, 1, 2] and drawn.get_color() == PALETTE[place]
        assert list(drawn.get_ydata()) == [90 - 2 * (1 + place + 4 * block) for block in range(3)]
        lengths = [high[1] - low[1] for low, high in bars[0].get_segments()]
        assert lengths == [2.5] * 3, "a standard error of 1.25 in both directions"


def test_what_was_written_is_read_back_with_numbers_as_numbers(tmp_path):
    rows = components({"layers": ("qkv",)})
    write_rows(tmp_path / "sensitivity.csv", rows)
    base, first, second = read_sensitivity(tmp_path)
    assert base == {**dict.fromkeys(rows[1]), **rows[0]}, "what the model alone does not have is None"
    assert (first, second) == (rows[1], rows[2])
