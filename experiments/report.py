"""Tables and figures from what was measured: `python -m experiments report`; runs nothing."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lampq.errors import LampQError, line
from lampq.launch.cells import experiments_with_cells
from lampq.limits import did_you_mean
from lampq.report import page
from lampq.report.pictures import Pictures
from lampq.report.table import Table
from lampq.storage.atomic_write import write_text

from . import metrics, paper
from .accuracy_table import BESIDE_THE_AUTHORS_CODE, AuthorsCode, Layout, accuracy_table
from .allocators_table import allocators_table
from .detection_table import detection_table
from .expected_errors import table2, table9
from .figures import FIGURES, Drawing
from .grid import grid_table, searches, write_preset
from .measured import NOT_A_VARIATION, measured
from .measured import left_out as damage
from .runtime_table import runtime_table

log = logging.getLogger(__name__)

LAYOUTS = {
    "table3": Layout(
        "table3",
        "Table 3: top-1 (%) of quantized ViTs on ImageNet",
        lambda: paper.accuracy_rows(3, paper.METHODS),
        paper.MODELS,
        lambda: paper.full_precision(3),
    ),
    "table5": Layout(
        "table5",
        "Table 5: top-1 (%) of ViTs quantized without real images",
        lambda: paper.accuracy_rows(5, paper.ZERO_SHOT_METHODS),
        paper.MODELS,
        lambda: paper.full_precision(5),
    ),
    "table6": Layout(
        "table6",
        "Table 6: what each idea of LampQ adds, top-1 (%) at 3 bits",
        paper.ablation_rows,
        paper.MODELS,
        lambda: paper.full_precision(3),
        paper_column="deit_small",
    ),
    "authors_code": AuthorsCode(
        "authors_code",
        "Base quantizers beside their authors' code: top-1 (%) with the same calibration images",
        lambda: paper.accuracy_rows("authors_code", paper.AUTHORS_CODE),
        paper.MODELS,
        lambda: paper.full_precision("authors_code"),
        legend=BESIDE_THE_AUTHORS_CODE,
        source="code",
        common=("dataset.calibration_list",),
    ),
}

TABLES: dict[str, Callable[[Path], list[Table]]] = {
    "table2": lambda results: [table2()],
    **{name: lambda results, layout=layout: [accuracy_table(results, layout)] for name, layout in LAYOUTS.items()},
    "table4": lambda results: [detection_table(results)],
    "table9": lambda results: [table9()],
    "table10": lambda results: [runtime_table(results)],
    "allocators": lambda results: [allocators_table(results)],
    "metrics": metrics.tables,
    "grid": lambda results: [grid_table(search) for search in searches(results)],
}
"""Name of an experiment -> its tables from a results folder."""

COMPUTED = ("table2", "table9")
"""Tables that need no run."""


@dataclass(frozen=True)
class Artefact:
    """What an experiment's cells became.

    Attributes:
        tables: the tables.
        drawing: the figure, or None.
        files: everything that was written.
    """

    tables: list[Table] = field(default_factory=list)
    drawing: Drawing | None = None
    files: list[Path] = field(default_factory=list)


def names() -> list[str]:
    """Experiments that have a table or a figure, tables first."""
    return list(dict.fromkeys([*TABLES, *FIGURES]))


def check_name(name: str) -> str:
    """An experiment's name.

    Raises:
        LampQError: there is no such experiment.
    """
    if name not in names():
        near = did_you_mean(name, names()) or f"; there are {', '.join(names())}"
        raise LampQError(f"{name}: no such experiment{near}")
    return name


def build(name: str, results: Path) -> Artefact:
    """Write an experiment's table to ``results/tables`` and its figure to ``results/figures``.

    Raises:
        LampQError: there is no such experiment.
    """
    check_name(name)
    drawing = FIGURES[name](results, results / "figures") if name in FIGURES else None
    files = [drawing.path.with_suffix(s) for s in (".png", ".pdf", ".csv")] if drawing and drawing.path else []
    tables = TABLES[name](results) if name in TABLES else []
    files += [path for table in tables for path in table.write(results / "tables")]
    if name == "grid":
        files += [write_preset(search, results) for search in searches(results)]
    return Artefact(tables, drawing, files)


def report(results: Path, only: list[str] | None = None, left_out: list[str] | None = None) -> list[Path]:
    """Rebuild tables and figures (all that have cells, and the computed ones), and ``results/report.html``.

    Args:
        left_out: gets a line on everything that is damaged and on every table that could not be made; None logs them.

    Returns:
        What was written.
    """
    present = {*experiments_with_cells(results), *COMPUTED}
    wanted = [check_name(name) for name in only] if only else [name for name in names() if name in present]
    lines = damage(results, names())
    built = {}
    # The page always has everything.
    for name in names():
        if name in wanted or name in present:
            try:
                built[name] = build(name, results)
            except (LampQError, LookupError, TypeError, ValueError, ArithmeticError) as error:
                lines.append(f"{name}: cannot be put together ({type(error).__name__}: {line(error)})")
    written = [path for name in wanted if name in built for path in built[name].files]
    path = results / "report.html"
    pictures = Pictures(results / ".pictures")
    write_text(path, _page(results, built, pictures, lines))
    pictures.forget_others()
    for each in lines if left_out is None else ():
        log.warning("left out: %s", each)
    if left_out is not None:
        left_out += lines
    return [*written, path]


def _page(results: Path, built: dict[str, Artefact], pictures: Pictures, lines: list[str]) -> str:
    sections = {}
    for name, artefact in built.items():
        parts = []
        for number, table in enumerate(artefact.tables):
            parts += [page.paragraph(table.title)] * (number > 0) + [table.html()]
        if artefact.drawing is not None:
            drawing = artefact.drawing
            if drawing.path is not None:
                parts.append(pictures.shown(drawing.path, drawing.title))
            parts += [page.paragraph(remark) for remark in drawing.remarks]
        title = artefact.tables[0].title if artefact.tables else artefact.drawing.title if artefact.drawing else name
        parts.append(page.paragraph("Run again what is missing:"))
        parts.append(page.command(_command(results, name)))
        parts += _plans(results, name, pictures, lines)
        sections[name] = page.section(name, title, *parts)
    introduction = (
        "Measured by this repository, simulated quantization. The paper's numbers stand beside ours and are never "
        "filled in for them. What is not measured is named."
    )
    return page.page("LampQ: tables and figures", introduction, sections)


def _command(results: Path, name: str) -> str:
    """The command of the last cell that ran, or the plain one."""
    commands = [r.cell.command for r in measured(results, name) if r.cell.command]
    return f"python {commands[-1]}" if commands else f"python run.py experiment={name}"


def _plans(results: Path, name: str, pictures: Pictures, lines: list[str]) -> list[str]:
    """The bit plan of every run with one, folded, with the command that applies it again."""
    parts = []
    for row in measured(results, name) if name != "grid" else []:
        figure = row.run and row.run.folder / "bit_allocation.png"
        if figure and figure.is_file():
            asked = [f"{key}={value}" for key, value in row.cell.overrides.items()]
            place = [f"{k}={v}" for k, v in row.cell.overrides.items() if k in NOT_A_VARIATION and k != "method"]
            place.append(f"base_quantizer={row.run.metrics['base_quantizer']}")
            path = row.run.results / "runs" / row.run.fingerprint / "plan.json"
            command = f"python run.py {' '.join(place)} allocator=from_plan allocator.plan={path}"
            label = ", ".join(asked)
            try:
                shown = [pictures.shown(figure, label)]
            except LampQError as error:
                shown = []
                lines.append(f"{error}; remove it, and run the run's command again: it is drawn again")
            parts.append(page.folded(f"Plan: {label}", *shown, page.command(command)))
    return parts
