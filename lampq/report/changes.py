"""What single changes of bits did to the loss, drawn against what metrics foretold, a panel for each of them."""

from pathlib import Path
from typing import Any

from lampq.report.style import panels, points, save

MEASURED = (
    *("unit", "name", "type", "block", "bits_before", "bits"),
    *("loss_increase", "loss_increase_standard_error"),
)
"""Columns of a row that are no prediction."""


def predictions_in(rows: list[dict[str, Any]]) -> list[str]:
    """What foretold the changes, by the names of its columns (see `lampq.sensitivity.single_changes`)."""
    return [name for name in rows[0] if name not in MEASURED]


def draw_changes(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw a measurement of single changes, and write it as PNG and PDF.

    Args:
        rows: as `lampq.sensitivity.single_changes.SingleChanges.measure` returns them.
        path: the PNG.
    """
    names = predictions_in(rows)
    figure, axes = panels(len(names), share_y=True)
    kinds = [("one bit more", 1), ("one bit less", -1)]
    for each, name in zip(axes, names, strict=True):
        for index, (label, sign) in enumerate(kinds):
            mine = [row for row in rows if (row["bits"] - row["bits_before"]) * sign > 0]
            errors = [row["loss_increase_standard_error"] for row in mine]
            points(each, [row[name] for row in mine], [row["loss_increase"] for row in mine], label, index, errors)
        each.axhline(0, color="0.5", linewidth=0.8)
        each.set_title(name.replace("_", " "), fontsize=8)
        each.set_xlabel("predicted", fontsize=9)
    axes[0].set_ylabel("change of the loss on D (nats)", fontsize=9)
    axes[0].legend(frameon=False, fontsize=8)
    save(figure, path)
