"""Tables and figures from what was measured: `python -m experiments report`; runs nothing."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from lampq.errors import LampQError, line
from lampq.launch.cells import experiments_with_cells
from lampq.limits import did_you_mean
from lampq.report import page
from lampq.report.bit_allocation import bits_html
from lampq.report.pictures import in_few_colours
from lampq.report.table import Table
from lampq.runs.finished_run import VERIFIED
from lampq.storage.atomic_write import write_text

from . import metrics, paper
from .accuracy_table import BESIDE_THE_AUTHORS_CODE, GLF_Q, AccuracyLayout, AuthorsCode
from .allocators_table import LEGEND as ALLOCATORS
from .allocators_table import AllocatorsLayout
from .detection_table import LEGEND as DETECTORS
from .detection_table import DetectionLayout
from .expected_errors import table2, table9
from .figures import FIGURES, Drawing
from .frame import frame, runs_with
from .frame import left_out as damage
from .grid import grid_table, searches, write_preset
from .method_table import Layout, method_table
from .methods import NOT_A_VARIATION
from .records_table import NAME as RECORDS
from .records_table import records_tables
from .runtime_table import LEGEND as TIMES
from .runtime_table import RuntimeLayout
from .setting_table import OUT_OF_DOMAIN, ROTATION, SettingLayout
from .verify_table import NAME as VERIFY
from .verify_table import verify_table

log = logging.getLogger(__name__)

LAYOUTS: tuple[Layout, ...] = (
    AccuracyLayout(
        "table3",
        "Table 3: top-1 (%) of quantized ViTs on ImageNet",
        lambda: paper.accuracy_rows(3, paper.METHODS),
        full_precision=lambda: paper.full_precision(3),
    ),
    DetectionLayout(
        "table4",
        "Table 4: AP of boxes and masks of quantized detectors on COCO (%)",
        paper.detection_rows,
        legend=DETECTORS,
        models=paper.DETECTORS,
    ),
    AccuracyLayout(
        "table5",
        "Table 5: top-1 (%) of ViTs quantized without real images",
        lambda: paper.accuracy_rows(5, paper.ZERO_SHOT_METHODS),
        full_precision=lambda: paper.full_precision(5),
    ),
    AccuracyLayout(
        "table6",
        "Table 6: what each idea of LampQ adds, top-1 (%) at 3 bits",
        paper.ablation_rows,
        full_precision=lambda: paper.full_precision(3),
        paper_column="deit_small",
    ),
    RuntimeLayout(
        "table10",
        "Table 10: time of quantization at 3 bits",
        lambda: paper.accuracy_rows(10, paper.METHODS),
        legend=TIMES,
    ),
    AuthorsCode(
        "authors_code",
        "Base quantizers beside their authors' code: top-1 (%) with the same calibration images",
        lambda: paper.accuracy_rows("authors_code", paper.AUTHORS_CODE),
        legend=BESIDE_THE_AUTHORS_CODE,
        common=("dataset.calibration_list",),
        full_precision=lambda: paper.full_precision("authors_code"),
        source="code",
    ),
    AccuracyLayout(
        "glf_q",
        "GLF-Q, its parts and its losses, beside other methods: top-1 (%)",
        lambda: paper.accuracy_rows("glf_q", paper.GLF_Q),
        legend=GLF_Q,
        full_precision=lambda: paper.full_precision("glf_q"),
        source="published",
    ),
    AllocatorsLayout("allocators", "Allocators beside each other: top-1 (%)", legend=ALLOCATORS),
    SettingLayout(
        "rotation",
        "Rotation under other base quantizers: top-1 (%)",
        legend=ROTATION,
        setting="transform",
        without="none",
        difference="rotated − as it comes",
    ),
    SettingLayout(
        "out_of_domain",
        "Calibrated on images of another data set: top-1 (%)",
        legend=OUT_OF_DOMAIN,
        setting="dataset.calibration_root",
        without="null",
        difference="other − own images",
    ),
    AllocatorsLayout("readings", "What the paper leaves open, one reading at a time: top-1 (%)", legend=ALLOCATORS),
)

TABLES: dict[str, Callable[[pd.DataFrame], list[Table]]] = {
    "table2": lambda rows: [table2()],
    "table9": lambda rows: [table9()],
    **{layout.name: lambda rows, layout=layout: [method_table(rows, layout)] for layout in LAYOUTS},
    "metrics": metrics.tables,
    "grid": lambda rows: [grid_table(search) for search in searches(rows)],
    VERIFY: lambda rows: [verify_table(rows)],
    RECORDS: records_tables,
}
"""Name of an experiment -> its tables from the frame's rows of it."""

COMPUTED = ("table2", "table9")
"""Tables that need no run."""


@dataclass(frozen=True)
class Artefact:
    """What an experiment's cells became.

    Attributes:
        tables: the tables.
        drawing: the figure, or None.
        picture: its PNG, or None.
        files: everything that was written.
    """

    tables: list[Table] = field(default_factory=list)
    drawing: Drawing | None = None
    picture: Path | None = None
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


def build(name: str, results: Path, rows: pd.DataFrame, keep: bool = False) -> Artefact:
    """Write an experiment's table to ``results/tables`` and its figure to ``results/figures``.

    Args:
        rows: those of the frame that are the experiment's.
        keep: do not draw a figure again whose numbers have not changed.

    Raises:
        LampQError: there is no such experiment.
    """
    check_name(name)
    drawing = FIGURES[name](rows) if name in FIGURES else None
    drawn = drawing.write(results / "figures", keep) if drawing else []
    tables = TABLES[name](rows) if name in TABLES else []
    # Records stand beside the page that tells of them.
    folder = results if name == RECORDS else results / "tables"
    files = [*drawn, *(path for table in tables for path in table.write(folder))]
    if name == "grid":
        files += [write_preset(search, results) for search in searches(rows)]
    return Artefact(tables, drawing, drawn[0] if drawn else None, files)


def report(results: Path, only: list[str] | None = None, left_out: list[str] | None = None) -> list[Path]:
    """Rebuild tables and figures (all that have cells, and the computed ones), and ``results/report.html``.

    Args:
        left_out: gets a line on everything that is damaged and on every table that could not be made; None logs them.

    Returns:
        What was written.
    """
    present = experiments_with_cells(results)
    rows = frame(results, [name for name in names() if name in present])
    of = dict(list(rows.groupby("experiment")))
    if rows.run.notna().any():
        of[RECORDS] = rows
    if not (verified := runs_with(results, VERIFIED)).empty:
        of[VERIFY] = verified
    wanted = [check_name(name) for name in only] if only else [n for n in names() if n in of or n in COMPUTED]
    lines = list(dict.fromkeys([*damage(results, rows, names()), *verified.damage.dropna()]))
    built = {}
    # The page always has everything; what was not asked for is drawn again only where its numbers have changed.
    for name in names():
        if name in wanted or name in of or name in COMPUTED:
            try:
                built[name] = build(name, results, of.get(name, rows[:0]), keep=name not in wanted)
            except (LampQError, LookupError, TypeError, ValueError, ArithmeticError) as error:
                lines.append(f"{name}: cannot be put together ({type(error).__name__}: {line(error)})")
    written = [path for name in wanted if name in built for path in built[name].files]
    path = results / "report.html"
    sections = {name: _section(name, built[name], of.get(name, rows[:0]), lines) for name in built}
    introduction = (
        "Measured by this repository, simulated quantization. The paper's numbers stand beside ours and are never "
        "filled in for them. What is not measured is named."
    )
    write_text(path, page.page("LampQ: tables and figures", introduction, sections))
    for each in lines if left_out is None else ():
        log.warning("left out: %s", each)
    if left_out is not None:
        left_out += lines
    return [*written, path]


def _section(name: str, artefact: Artefact, rows: pd.DataFrame, lines: list[str]) -> str:
    parts = []
    for number, table in enumerate(artefact.tables):
        parts += [page.paragraph(table.title)] * (number > 0) + [table.html()]
    drawing = artefact.drawing
    if drawing is not None:
        if artefact.picture is not None:
            try:
                parts.append(page.picture(in_few_colours(artefact.picture), drawing.title))
            except LampQError as error:
                lines.append(f"{error}; `python -m experiments report {name}` draws it again")
        parts += [page.paragraph(remark) for remark in drawing.remarks]
    title = artefact.tables[0].title if artefact.tables else drawing.title if drawing is not None else name
    parts += [page.paragraph("Run again what is missing:"), page.command(_again(name, rows))]
    plans = _plans(rows) if name not in ("grid", VERIFY, RECORDS) else []
    return page.section(name, title, *parts, *plans)


def _again(name: str, rows: pd.DataFrame) -> str:
    """The command that measures: of the last cell that ran, or the plain one."""
    if name == VERIFY:
        return "python -m experiments verify RUN"
    if name == RECORDS:
        return "python -m experiments report"
    commands = [cell.command for cell in rows.cell if cell.command]
    return f"python {commands[-1]}" if commands else f"python run.py experiment={name}"


def _plans(rows: pd.DataFrame) -> list[str]:
    """The bit plan of every run with one, folded, with the command that applies it again."""
    parts = []
    for row in rows[rows.run.notna()].itertuples():
        if not (row.run.folder / "plan.json").is_file():
            continue
        place = [f"{k}={v}" for k, v in row.asked.items() if k in NOT_A_VARIATION and k != "method"]
        path = row.run.results / "runs" / row.fingerprint / "plan.json"
        transform = row.run.metrics.get("transform")
        place += [] if transform is None else [f"transform={transform}"]
        place += [f"base_quantizer={row.base_quantizer}", "allocator=from_plan", f"allocator.plan={path}"]
        label = ", ".join(f"{key}={value}" for key, value in row.asked.items())
        bits = bits_html(row.run.plan, row.run.metrics)
        parts.append(page.folded(f"Plan: {label}", bits, page.command(f"python run.py {' '.join(place)}")))
    return parts
