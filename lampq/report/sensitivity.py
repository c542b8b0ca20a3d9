"""What single components cost, drawn: accuracy by block, a line for each type, a panel for each unit."""

from pathlib import Path
from typing import Any

from lampq.report.style import line, panels, save

TITLES = {"layers": "layers", "modules": "modules", "blocks": "blocks"}


def draw_sensitivity(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw a measurement of single components, and write it as PNG and PDF.

    Args:
        rows: as `lampq.sensitivity.single_component.SingleComponents.measure` returns them.
        path: the PNG.
    """
    units = list(dict.fromkeys(row["unit"] for row in rows if row["unit"] != "none"))
    figure, axes = panels(len(units), share_y=True)
    for each, unit in zip(axes, units, strict=True):
        draw_unit(each, rows, unit)
        each.set_title(TITLES[unit], fontsize=10)
    axes[0].set_ylabel("top-1 on D (%)", fontsize=9)
    save(figure, path)


def draw_unit(axes: Any, rows: list[dict[str, Any]], unit: str) -> None:
    """Accuracy of every component of one unit; the model without it as a dashed line."""
    base = next(row["top1"] for row in rows if row["unit"] == "none")
    axes.axhline(base, color="0.5", linestyle="--", linewidth=1, label="without it")
    types = list(dict.fromkeys(row["type"] for row in rows if row["unit"] == unit))
    for index, name in enumerate(types):
        mine = [row for row in rows if row["unit"] == unit and row["type"] == name]
        error = [row["top1_drop_standard_error"] for row in mine]
        line(axes, [row["block"] for row in mine], [row["top1"] for row in mine], name, index, error)
    axes.set_xlabel("block", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
