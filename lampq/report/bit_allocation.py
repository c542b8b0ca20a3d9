"""The bits of the 4N layers, and of attention operands where they are chosen too, drawn: types by blocks, as a figure,
for the terminal and for the page."""

import html
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.style import Style
from rich.table import Table
from rich.text import Text

from lampq.plan.bit_plan import BitPlan, SitePlan
from lampq.plan.budget import FULL_PRECISION_BITS
from lampq.plan.sites import ALLOCATE, MATMUL_TYPES
from lampq.report.style import matplotlib_without_backend, new_figure, save
from lampq.report.summary import cost_lines

BLOCKS_PER_ROW = 24
"""Blocks beside each other in a figure; a deeper model goes on below."""
BLOCKS_ACROSS_TERMINAL = 16
"""Blocks beside each other in a terminal, where they fit; a deeper model is shown with its blocks downwards."""
TERMINAL_COLUMNS = 80
ROWS = ("qkv", "qk", "pv", "proj", "fc1", "fc2")
"""Types that may have a row, in the order of execution."""
LINE = 0.14
"""Height of a line of small print, in inches."""
LETTER = 0.05
"""Width of a letter of it."""
GREY = (0.82, 0.82, 0.82)
"""Colour of full precision."""


def draw_bit_allocation(plan: BitPlan, path: Path, costs: dict | None = None) -> None:
    """Draw the weight bits of the 4N layers as a heat map, and write it as PNG and, beside it, as PDF.

    Rows are layer types, columns blocks; attention matmuls have rows of their own, with the bits of their operands,
    where these were chosen. Activation bits stand in small print where they differ from the weight bits. What was
    chosen outside the blocks stands below. Full precision is grey. The colours span the plan's bit set, so plans from
    one bit set compare by colour.

    Args:
        plan: what is drawn.
        path: the PNG; its folder exists.
        costs: what the plan costs (see `cost_lines`), to be told below; None where it is not known.
    """
    (cells, blocks), types = _cells(plan), row_types(plan)
    rows = [blocks[i : i + BLOCKS_PER_ROW] for i in range(0, len(blocks), BLOCKS_PER_ROW)]
    # Everything is placed in inches, so that a cell is as large in a deep model as in a shallow one.
    cell, left, top, right, gap = 0.42, 0.55, 0.45, 1.7, 0.5
    across = max(map(len, rows), default=1)
    height, step = len(types) * cell, len(types) * cell + gap
    wide = left + max(5, across) * cell + right
    words = [*outside_lines(plan), *cost_lines(costs)]
    below = [line for text in words for line in textwrap.wrap(text, int((wide - 0.2) / LETTER))]
    high = top + max(1, len(rows)) * step + LINE * len(below)
    figure = new_figure(figsize=(wide, high))
    from matplotlib.patches import Patch

    figure.text(left / wide, 1 - 0.2 / high, _title(plan), fontsize=11, va="center")
    for index, shown in enumerate(rows):
        corner = left / wide, 1 - (top + index * step + height) / high
        axes = figure.add_axes((*corner, len(shown) * cell / wide, height / high))
        draw_bits(axes, plan, shown)
    note = "block; small print: activation bits" if _activations_differ(cells) else "block"
    figure.text(left / wide, (0.17 + LINE * len(below)) / high, note, fontsize=9, va="center")
    for number, line in enumerate(reversed(below)):
        figure.text(0.1 / wide, (0.1 + LINE * number) / high, line, fontsize=6, va="center")
    patches = [Patch(facecolor=colour, label=_legend(bits)) for bits, colour in bit_colours(plan).items()]
    place = (left + across * cell + 0.1) / wide, 1 - (top - 0.1) / high
    figure.legend(
        handles=patches,
        title="weight bits",
        loc="upper left",
        bbox_to_anchor=place,
        frameon=False,
        fontsize=9,
        alignment="left",
    )
    save(figure, path)


def draw_bits(axes: Any, plan: BitPlan, shown: list[int] | None = None) -> None:
    """Layer types by blocks on given axes, the bits in each cell.

    Args:
        shown: the blocks; None is all.
    """
    from matplotlib.patches import Rectangle

    (cells, blocks), types = _cells(plan), row_types(plan)
    colours, shown = bit_colours(plan), blocks if shown is None else shown
    for column, block in enumerate(shown):
        for row, layer_type in enumerate(types):
            site = cells.get((layer_type, block))
            if site is not None:
                colour = colours[main_bits(site)]
                axes.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="white", linewidth=1.2))
                _print_bits(axes, column + 0.5, row + 0.5, site, _ink(colour))
    axes.set(xlim=(0, len(shown)), ylim=(len(types), 0))
    axes.set_xticks([i + 0.5 for i in range(len(shown))], [str(block) for block in shown], fontsize=8)
    axes.set_yticks([i + 0.5 for i in range(len(types))], types)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def bits_grid(plan: BitPlan) -> Table:
    """The same grid for the terminal: blocks across, or downwards where a model has more than fit.

    A cell reads ``4``, or ``4/8`` where the activations (8 bits) differ from the weights (4 bits).
    """
    (cells, blocks), types = _cells(plan), row_types(plan)
    colours = bit_colours(plan)
    texts = {key: Text(f" {_words(site)} ", _look(site, colours)) for key, site in cells.items()}
    width = max([3, *map(len, texts.values())])
    downwards = len(blocks) > min(BLOCKS_ACROSS_TERMINAL, (TERMINAL_COLUMNS - 7) // (width + 1))
    caption = "\n".join(_captions(plan)) or None
    table = Table(title=_title(plan), caption=caption, title_justify="left", caption_justify="left", padding=0)
    table.min_width = max(map(len, [_title(plan), *(caption or "").splitlines()])) + 1
    table.add_column("block", justify="right" if downwards else "left", no_wrap=True)
    for header in types if downwards else map(str, blocks):
        table.add_column(header, justify="center", min_width=3, no_wrap=True)
    for name in blocks if downwards else types:
        keys = [(t, name) for t in types] if downwards else [(name, b) for b in blocks]
        table.add_row(str(name), *(texts.get(key, "") for key in keys))
    return table


def bits_html(plan: BitPlan, costs: dict | None = None) -> str:
    """The same grid for the page, blocks across.

    Args:
        costs: what the plan costs (see `cost_lines`), to be told below; None where it is not known.
    """
    (cells, blocks), colours = _cells(plan), bit_colours(plan)

    def cell(site: SitePlan | None) -> str:
        if site is None:
            return "<td></td>"
        look = _look(site, colours)
        return f"<td style='background:{look.bgcolor.name};color:{look.color.name}'>{_words(site)}</td>"

    def row(header: str, shown: Iterable[str]) -> str:
        return f"<tr><th>{header}</th>{''.join(shown)}</tr>"

    rows = [row("block", (f"<th>{block}</th>" for block in blocks))]
    rows += [row(type, (cell(cells.get((type, block))) for block in blocks)) for type in row_types(plan)]
    notes = "".join(f"<p class=note>{html.escape(line)}</p>" for line in [*_captions(plan), *cost_lines(costs)])
    title = f"<caption>{html.escape(_title(plan))}</caption>"
    return f"<div class=wide><table class=bits>{title}{''.join(rows)}</table></div>{notes}"


def bit_colours(plan: BitPlan) -> dict[int | None, tuple[float, float, float]]:
    """A colour (red, green, blue in 0 to 1) for each bit-width of the rows, low to high, full precision last.

    Cividis, which reads the same with and without colour vision, spread over the bit set and the bits in use.
    """
    colormaps = matplotlib_without_backend().colormaps
    used = {main_bits(site) for site in _cells(plan)[0].values()}
    steps = sorted({*plan.budget.get("candidates", ()), *(bits for bits in used if bits is not None)})
    low, high = (steps[0], steps[-1]) if steps else (0, 1)
    colours: dict[int | None, tuple[float, float, float]] = {
        bits: colormaps["cividis"]((bits - low) / max(1, high - low))[:3] for bits in steps
    }
    if None in used:
        colours[None] = GREY
    return colours


def _cells(plan: BitPlan) -> tuple[dict[tuple[str, int], SitePlan], list[int]]:
    """The layers, and the matmuls whose bits were chosen, by type and block, and the blocks in order."""
    cells = {(site.type, site.block): site for site in plan.chosen if site.type in ROWS}
    return cells, sorted({block for _, block in cells})


def row_types(plan: BitPlan) -> tuple[str, ...]:
    """The types that have a row: those of the layers, and of attention matmuls whose bits were chosen."""
    return tuple(type for type in ROWS if type in ALLOCATE[plan.budget.get("allocate", "layers")])


def main_bits(site: SitePlan) -> int | None:
    """The bits that a cell shows: of the weights, of a matmul of its operands."""
    return site.activation_bits if site.type in MATMUL_TYPES else site.weight_bits


def outside_lines(plan: BitPlan) -> list[str]:
    """What was chosen outside the blocks, and Swin's reductions, in words: weight bits / activation bits."""
    found = [s for s in plan.chosen if s.type not in ROWS]
    text = ", ".join(f"{s.name} {_number(s.weight_bits)}/{_number(s.activation_bits)}" for s in found)
    return textwrap.wrap(text, TERMINAL_COLUMNS - 2)


def _title(plan: BitPlan) -> str:
    layers = [site for site in plan.sites if site.allocated]
    parameters = sum(site.parameters for site in layers)
    origin = str(plan.origin.get("allocator", "unknown origin"))
    if not parameters:
        return origin
    average = sum(site.parameters * _number(site.weight_bits) for site in layers) / parameters
    return f"{origin}: {average:.2f} weight bits on average"


def _captions(plan: BitPlan) -> list[str]:
    """What a reader of the grid is told below it."""
    differ = _activations_differ(_cells(plan)[0])
    return [*["weight bits / activation bits"] * differ, *outside_lines(plan)]


def _activations_differ(cells: dict[tuple[str, int], SitePlan]) -> bool:
    return any(_differs(site) for site in cells.values())


def _differs(site: SitePlan) -> bool:
    return site.type not in MATMUL_TYPES and site.weight_bits != site.activation_bits


def _print_bits(axes, x: float, y: float, site: SitePlan, ink: str) -> None:
    differ = _differs(site)
    centred = {"ha": "center", "va": "center", "color": ink}
    axes.text(x, y - 0.14 if differ else y, str(_number(main_bits(site))), fontsize=10, **centred)
    if differ:
        axes.text(x, y + 0.28, f"A{_number(site.activation_bits)}", fontsize=6, **centred)


def _words(site: SitePlan) -> str:
    """A cell of a grid: bits, or weight bits / activation bits where they differ."""
    words = str(_number(main_bits(site)))
    return f"{words}/{_number(site.activation_bits)}" if _differs(site) else words


def _look(site: SitePlan, colours: dict) -> Style:
    colour = colours[main_bits(site)]
    background = "#" + "".join(f"{round(255 * part):02x}" for part in colour)
    return Style(color=_ink(colour), bgcolor=background)


def _number(bits: int | None) -> int:
    return FULL_PRECISION_BITS if bits is None else bits


def _legend(bits: int | None) -> str:
    return f"{FULL_PRECISION_BITS} (full precision)" if bits is None else str(bits)


def _ink(colour: tuple[float, float, float]) -> str:
    """Black on light, white on dark, by relative luminance."""
    red, green, blue = colour
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#ffffff"
