"""How every figure looks: one colour-blind-safe palette, one size of text, PNG and PDF and the data as CSV."""

import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from lampq.storage.atomic_write import write_bytes, write_rows

log = logging.getLogger(__name__)

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, told apart with any kind of colour vision."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Shapes beside the colours, for print without colour."""
WIDTH, HEIGHT = 4.2, 2.9
"""Inches of one panel."""


def panels(
    count: int, *, share_y: bool = False, width: float = WIDTH, height: float = HEIGHT, columns: int | None = None
) -> tuple[Any, list[Any]]:
    """A figure of `count` panels beside each other, in rows of `columns` where given: the figure and its axes."""
    across = min(count, columns or count)
    down = -(-count // across)
    figure = new_figure(figsize=(width * across, height * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharey=share_y).ravel()
    for unused in axes[count:]:
        unused.remove()
    for each in axes[:count]:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(axis="y", color="0.9", linewidth=0.8)
        each.set_axisbelow(True)
        each.tick_params(which="both", labelsize=8)
    return figure, list(axes[:count])


def matplotlib_without_backend() -> ModuleType:
    """matplotlib, imported whatever backend the environment names: figures here are drawn and saved without one.

    A backend that is not installed here, as a notebook's MPLBACKEND may be, would fail the import.
    """
    named = os.environ.pop("MPLBACKEND", None) if "matplotlib" not in sys.modules else None
    try:
        import matplotlib
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    return matplotlib


def new_figure(**settings: Any) -> Any:
    """A matplotlib figure by itself, which pyplot knows nothing of."""
    matplotlib_without_backend()
    from matplotlib.figure import Figure

    return Figure(**settings)


def drawn(draw: Callable[..., None], *arguments: Any) -> bool:
    """Draw with a function; a failure is one line in the log and never the end of a run.

    Returns:
        Whether it was drawn.
    """
    try:
        draw(*arguments)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        log.warning("%s failed (%s): the numbers are kept, a figure is missing", draw.__name__, reason)
        return False
    return True


def line(axes: Any, x: Sequence[float], y: Sequence[float], label: str, index: int, error: Any = None) -> None:
    """One series in the palette's colour and shape number `index`, with standard errors where there are any."""
    look = {
        "color": PALETTE[index % len(PALETTE)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4,
        "linewidth": 1.3,
        "label": label,
    }
    if error is None:
        axes.plot(x, y, **look)
    else:
        axes.errorbar(x, y, yerr=error, elinewidth=0.8, capsize=1.5, **look)


def points(axes: Any, x: Sequence[float], y: Sequence[float], label: str, index: int, error: Sequence[float]) -> None:
    """Points with standard errors, in the palette's colour and shape number `index`."""
    look = {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)], "label": label}
    axes.errorbar(x, y, yerr=error, linestyle="none", markersize=3, elinewidth=0.6, alpha=0.8, **look)


def save(figure: Any, path: Path, rows: list[dict[str, Any]] | None = None) -> None:
    """Write a figure as PNG and PDF, and the numbers in it as CSV beside them.

    Args:
        path: of the PNG; its folder is made when needed.
        rows: the numbers; None writes no CSV.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, rendered(figure, "png", dpi=200, metadata={"Software": None}))
    write_bytes(path.with_suffix(".pdf"), rendered(figure, "pdf", metadata={"CreationDate": None}))
    if rows is not None:
        write_rows(path.with_suffix(".csv"), rows)


def rendered(figure: Any, form: str, **settings: Any) -> bytes:
    """A figure as a file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, **settings)
    return buffer.getvalue()
