"""The bit-allocation figure and its grid for the terminal."""

import re
from dataclasses import replace

import pytest
from PIL import Image
from rich.console import Console

from lampq.plan.bit_plan import BitPlan
from lampq.report.bit_allocation import GREY, bit_colours, bits_grid, bits_html, draw_bit_allocation
from tests.report.plans import example_plan


def text_of(table, width=80):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


@pytest.mark.parametrize("blocks", [1, 12, 24, 48])
def test_figure_is_a_readable_png_with_a_pdf_beside_it(tmp_path, blocks):
    draw_bit_allocation(example_plan(blocks), tmp_path / "bits.png")
    with Image.open(tmp_path / "bits.png") as image:
        image.load()
        assert image.format == "PNG" and image.width > 400 and image.height > 300
    assert (tmp_path / "bits.pdf").read_bytes().startswith(b"%PDF")


def test_each_cell_has_the_colour_of_its_bits(tmp_path):
    plan = example_plan(6).with_bits({"blocks.3.fc1": (None, None)})
    draw_bit_allocation(plan, tmp_path / "bits.png")
    with Image.open(tmp_path / "bits.png") as image:
        pixels = image.convert("RGB")
    seen = {pixels.getpixel((x, y)) for x in range(0, pixels.width, 5) for y in range(0, pixels.height, 5)}
    for bits, colour in bit_colours(plan).items():
        assert any(max(abs(255 * c - s) for c, s in zip(colour, pixel, strict=True)) < 2 for pixel in seen), bits


def test_colours_span_the_bit_set_and_leave_grey_to_full_precision():
    plan = example_plan(2, candidates=(2, 3, 4, 5))
    few = plan.with_bits({site.name: (3, 3) for site in plan.sites if site.allocated})
    assert bit_colours(few)[3] == bit_colours(plan)[3]
    assert len(set(bit_colours(plan).values())) == 4 and None not in bit_colours(plan)
    assert bit_colours(plan.with_bits({"blocks.0.fc1": (None, None)}))[None] == GREY


def test_equal_plans_give_equal_figures(tmp_path):
    for name in ("a", "b"):
        draw_bit_allocation(example_plan(12), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_grid_has_types_by_blocks_and_the_average():
    plan = example_plan(12)
    lines = text_of(bits_grid(plan)).splitlines()
    bits = plan.layer_bits()
    for kind in ("qkv", "proj", "fc1", "fc2"):
        row = next(line for line in lines if line.startswith(f"│{kind} "))
        cells = [cell.strip() for cell in row.strip("│").split("│")]
        assert cells == [kind, *(str(bits[f"blocks.{block}.{kind}"]) for block in range(12))]
    parameters = {site.name: site.parameters for site in plan.sites}
    average = sum(parameters[n] * b for n, b in bits.items()) / sum(parameters[n] for n in bits)
    assert lines[0].strip() == f"lampq: {average:.2f} weight bits on average"


@pytest.mark.parametrize(("blocks", "activation_bits"), [(16, 0), (17, 0), (16, 8), (24, 16), (48, 0)])
def test_grid_fits_a_terminal_of_80_columns_without_cutting(blocks, activation_bits):
    plan = example_plan(blocks, activation_bits=activation_bits)
    text = text_of(bits_grid(plan))
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    shown = [cell.strip() for line in text.splitlines() if line.startswith("│") for cell in line.strip("│").split("│")]
    cells = [str(s.weight_bits) + (f"/{activation_bits}" if activation_bits else "") for s in plan.sites if s.allocated]
    across = blocks == 16 and not activation_bits
    blocks_as_rows = {str(block): 1 for block in range(blocks)}
    headers = ["qkv", "proj", "fc1", "fc2"] if across else list(blocks_as_rows)
    assert sorted(shown) == sorted(cells + headers)


def test_grid_of_full_precision_shows_32_and_has_no_colour_outside_a_terminal():
    plan = example_plan(4).with_bits({"blocks.0.qkv": (None, None), "blocks.1.qkv": (4, None)})
    text = text_of(bits_grid(plan))
    assert " 32 " in text and "4/32" in text and "weight bits / activation bits" in text
    console = Console(width=80, force_terminal=True, color_system="truecolor")
    with console.capture() as capture:
        console.print(bits_grid(plan))
    assert "\x1b[" in capture.get() and "\x1b[" not in text


def test_the_page_has_the_bits_and_colours_of_every_layer_and_what_they_cost():
    plan = example_plan(3).with_bits({"blocks.0.qkv": (None, None), "blocks.1.qkv": (4, 8)})
    html = bits_html(plan, COSTS)
    rows = {header: cells for header, cells in re.findall(r"<tr><th>(\w+)</th>(.*?)</tr>", html)}
    for kind in ("qkv", "proj", "fc1", "fc2"):
        sites = [plan[f"blocks.{block}.{kind}"] for block in range(3)]
        shown = re.findall(r"<td style='background:#(\w{6});color:#\w{6}'>([\d/]+)</td>", rows[kind])
        expected = {(None, None): "32", (4, 8): "4/8"}
        assert [words for _, words in shown] == [expected.get(site.bits, str(site.weight_bits)) for site in sites]
        for (colour, _), site in zip(shown, sites, strict=True):
            red, green, blue = bit_colours(plan)[site.weight_bits]
            assert bytes.fromhex(colour) == bytes(round(255 * part) for part in (red, green, blue))
    assert "weight bits / activation bits" in html and "packed size 464.2 kB" in html
    assert "weight bits / activation bits" not in bits_html(example_plan(3)) and "packed" not in bits_html(plan)


def test_a_plan_without_origin_or_layers_is_drawn_as_well(tmp_path):
    empty = BitPlan(())
    draw_bit_allocation(empty, tmp_path / "bits.png")
    assert "unknown origin" in text_of(bits_grid(empty)) and "unknown origin" in bits_html(empty)


COSTS = {
    "average_weight_bits": 3.0,
    "average_weight_bits_all": 3.1,
    "average_activation_bits": 3.25,
    "average_operand_bits": 3.5,
    "packed_bytes": 464_200,
    "full_precision_bytes": 3_700_000,
    "bops": 1.5e9,
}


def test_operands_that_were_chosen_have_a_row_and_what_lies_outside_a_line(tmp_path):
    plan = example_plan(4, candidates=(2, 3, 4))
    chosen = replace(plan, budget=plan.budget | {"allocate": "all"}).with_bits({"blocks.2.qk": (None, 7)})
    text, before = text_of(bits_grid(chosen)), text_of(bits_grid(plan))
    row = next(line for line in text.splitlines() if line.startswith("│qk "))
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["qk", "4", "4", "7", "4"]
    assert "patch_embed 4/32" in text and "│qk " not in before and "patch_embed" not in before
    assert 7 in bit_colours(chosen) and 7 not in bit_colours(plan)
    assert "<th>qk</th>" in bits_html(chosen) and "patch_embed 4/32" in bits_html(chosen)
    sizes = []
    for name, drawn, costs in (("layers", plan, None), ("costs", plan, COSTS), ("all", chosen, COSTS)):
        draw_bit_allocation(drawn, tmp_path / f"{name}.png", costs)
        with Image.open(tmp_path / f"{name}.png") as image:
            sizes.append(image.height)
    assert sizes[0] < sizes[1] < sizes[2], "lines of costs, then rows of operands as well"
