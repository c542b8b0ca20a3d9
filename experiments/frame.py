"""What was measured, as one pandas DataFrame: tables, figures, report and status are views of it."""

import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from lampq.launch.cells import DONE, PLANNED, Cell, experiments_with_cells, read_cells, unreadable_cells
from lampq.runs.finished_run import LABELS, DamagedRun, ended, read_run
from lampq.runs.tracking.csv import METRICS
from lampq.storage.atomic_write import write_text
from lampq.storage.fingerprint import fingerprint

from . import methods, paper
from .measured import Run, paired_difference, precision_difference

MISSING, DAMAGED = "missing", "damaged"
"""States beside those of a cell: no run yet, or its folder has gone; a run whose files are not as they were written."""

OBJECTS = ("cell", "run", "asked")
"""Columns for this program alone; files leave them out."""
CELL = ("experiment", "state", "method", "variation", "bits", "overrides", "reason", "damage")
SEARCH = ("evaluations", "evaluation_images", "sample_images", "sample_top1", "sample_top1_standard_error")
WHERE = ("device", "processor", "threads", "commit", "started", "command", "kernels", "comparable")
"""Columns that are there in any case, with `LABELS` and `METRICS`."""


def frame(results: Path, experiments: Iterable[str] | None = None) -> pd.DataFrame:
    """One row a cell of an experiment, with its last run where it is done, and one a finished run that no cell led to.

    A run that several cells led to has a row for each of them. Columns, of which those that a row lacks are NA:

    - ``experiment``, ``state`` (done, running, failed, interrupted, damaged, missing, not available), ``method``,
      ``variation`` and ``overrides`` (those that make it another row than its method's, and all, as on the command
      line), ``bits`` (weight and activation bits, as 3/3), ``reason`` (of a failure), ``damage`` (why its run is left
      out);
    - ``fingerprint``, ``model``, ``dataset``, ``base_quantizer``, ``allocator``, ``seed``, ``weight_bits`` and
      ``activation_bits`` (bits) of the run;
    - everything that its metrics.json has: accuracies (``top1``, ``box_ap`` ...) in percent, ``*_difference`` to full
      precision and ``*_standard_error`` in points, ``packed_bytes`` in bytes, ``average_*_bits`` in bits, ``bops`` in
      bit operations, ``seconds_*`` in seconds, ``images`` and ``evaluations`` as counts;
    - ``device``, ``processor``, ``threads``, ``commit``, ``started``, ``command``, ``kernels`` of the run;
    - ``comparable``: a hash that runs share which may stand against each other in pairs (`with_gain`);
    - ``cell``, ``run`` and ``asked``, the objects themselves, which are not written to files.

    Args:
        results: the results folder.
        experiments: names; None is all of them, and the runs of no cell as well.
    """

    @cache
    def read(name: str) -> Run | DamagedRun | None:
        folder = results / "runs" / name
        try:
            return read_run(folder, Run) if ended(folder) else None
        except DamagedRun as error:
            return error

    names = experiments_with_cells(results) if experiments is None else experiments
    rows = []
    for cell in (cell for name in names for cell in read_cells(results, name)):
        state = cell.state_now(results)
        run = read(cell.fingerprints[-1]) if state == DONE and cell.fingerprints else None
        rows.append(_row(cell, run, MISSING if state == PLANNED or (state == DONE and run is None) else state))
    if experiments is None and (results / "runs").is_dir():
        known = {row.get("fingerprint") for row in rows}
        others = (path.name for path in sorted((results / "runs").iterdir()) if path.is_dir())
        rows += [_row(None, run, DONE) for name in others if name not in known and (run := read(name)) is not None]
    return tidy(rows, (*CELL, *LABELS, *METRICS, *SEARCH, *WHERE, *OBJECTS))


def runs_with(results: Path, file: str) -> pd.DataFrame:
    """A row a finished run whose folder holds a file, with the columns of `frame`."""
    rows = []
    for path in sorted((results / "runs").glob(f"*/{file}")):
        try:
            rows.append(_row(None, read_run(path.parent, Run), DONE))
        except DamagedRun as error:
            rows.append(_row(None, error, DAMAGED))
    return tidy(rows, (*CELL, *LABELS, *METRICS, *SEARCH, *WHERE, *OBJECTS))


def tidy(rows: Sequence[dict[str, Any]], first: Sequence[str] = ()) -> pd.DataFrame:
    """A DataFrame whose columns have a type each that knows NA: whole numbers stay whole beside missing ones.

    Args:
        rows: values by column.
        first: columns that are there in any case and come first; others follow as they appear.
    """
    columns = dict.fromkeys([*first, *(key for row in rows for key in row)])
    values = {name: [row.get(name) for row in rows] for name in columns}
    typed = {
        name: pd.Series(v, dtype=object) if name in OBJECTS or not any(x is not None for x in v) else pd.array(v)
        for name, v in values.items()
    }
    return pd.DataFrame(typed)


def _row(cell: Cell | None, run: Run | DamagedRun | None, state: str) -> dict[str, Any]:
    asked = cell.overrides if cell else {}
    row: dict[str, Any] = {
        "experiment": cell and cell.experiment,
        "state": state,
        "overrides": " ".join(f"{key}={value}" for key, value in asked.items()),
        "variation": methods.variation(asked),
        "reason": cell and cell.reason,
        "cell": cell,
        "asked": asked,
    }
    weight = asked.get("weight_bits", asked.get("bits", "?"))
    row["bits"] = f"{weight}/{asked.get('activation_bits', asked.get('bits', '?'))}"
    if isinstance(run, DamagedRun):
        row |= {"state": DAMAGED, "damage": str(run), "fingerprint": run.folder.name}
    elif run is not None:
        metrics = {key: value for key, value in run.metrics.items() if value is not None}
        row |= {key: v if isinstance(v, str | int | float) else json.dumps(v) for key, v in metrics.items()}
        row |= {name: run.environment.get(name) for name in WHERE}
        if metrics.keys() >= {"sample_top1", "sample_images"}:
            row["sample_top1_standard_error"] = run.sample_top1_standard_error
        row |= {"kernels": run.kernels, "comparable": _comparable(run), "run": run}
        row["bits"] = f"{metrics['weight_bits']:g}/{metrics['activation_bits']:g}"
    return row | {key: asked[key] for key in ("method", "model") if key in asked}


def _comparable(run: Run) -> str:
    """What two runs share of which one has equal bits: the model and its weights, base quantizer, seed, calibration
    and validation images, and as many bits on average."""
    asked = [run.identity.get(key) for key in ("model", "weights", "base_quantizer", "seed")]
    images = [run.identity["images"].get(key) for key in ("calibration", "validation")]
    return fingerprint([asked, images, [float(run.metrics[key]) for key in ("weight_bits", "activation_bits")]])


def with_gain(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with ``uniform_difference`` (``box_ap_uniform_difference``, ``mask_ap_...`` of detectors) and their standard
    errors: points by which a searched plan is ahead of equal bits of the same experiment, paired by image."""
    uniform = rows[(rows.allocator == "uniform") & (rows.top1.notna() | rows.box_ap.notna())]
    equal = uniform.drop_duplicates(["experiment", "comparable"])[["experiment", "comparable", "run"]]
    pairs = rows[["experiment", "comparable", "run", "allocator"]].merge(
        equal, how="left", on=["experiment", "comparable"], suffixes=("", "_of_equal_bits")
    )
    alone = pairs.run_of_equal_bits.isna() | (pairs.allocator == "uniform")
    gains = [
        {} if by_itself else _gain(run, other)
        for run, other, by_itself in zip(pairs.run, pairs.run_of_equal_bits, alone, strict=True)
    ]
    ends = ("uniform_difference", "uniform_difference_standard_error")
    names = [f"{accuracy}{end}" for accuracy in ("", "box_ap_", "mask_ap_") for end in ends]
    return rows.join(tidy(gains, names).set_index(rows.index))


def _gain(run: Run, other: Run) -> dict[str, float]:
    if run.metrics.get("top1") is not None:
        gains = {"": paired_difference(run, other)}
    elif run.precision_draws and other.precision_draws:
        gains = {f"{name}_": precision_difference(run, other, name) for name in ("box_ap", "mask_ap")}
    else:
        gains = {}
    ends = ("", "_standard_error")
    return {f"{n}uniform_difference{end}": v for n, both in gains.items() for end, v in zip(ends, both, strict=True)}


def widest(rows: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Of rows for the same place in a table, those on the most validation images (then of the largest D), one a seed.

    Rows that are not done come last: a state is shown only where nothing is measured.

    Args:
        by: columns that make a place; none is one place for all rows.
    """
    size = rows.images.fillna(0).astype(float) * 1e9 + rows.sample_images.fillna(0).astype(float) + rows.run.notna()
    most = size.groupby([rows[name] for name in by], dropna=False).transform("max") if by else size.max()
    best = rows[size == most]
    # Two runs of one seed are no two seeds: the later one counts.
    best = best.sort_values("started", kind="stable")
    best = best[best.run.isna() | ~best.duplicated([*by, "seed"], keep="last")]
    return best.sort_values("seed", kind="stable")


def latest(rows: pd.DataFrame, method: str | None = None) -> Any:
    """The row to draw: one of the paper's models before others, on the largest D; None where nothing is measured."""
    done = rows[rows.run.notna() & ((rows.method == method) if method else True)]
    if done.empty:
        return None
    ours = done.model.isin(list(paper.MODELS))
    return first(widest(done[done.model == (done[ours] if ours.any() else done).model.iloc[0]]))


def first(rows: pd.DataFrame) -> Any:
    """The first row, its columns by name."""
    return next(rows.itertuples(index=False))


def plain(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries, None where a value is missing."""
    return rows.astype(object).where(rows.notna(), None).to_dict("records")


def left_out(results: Path, rows: pd.DataFrame, experiments: Iterable[str]) -> list[str]:
    """What no table can use, a line each: cells that cannot be read, runs that are damaged."""
    lines = []
    for name in experiments:
        lines += [*unreadable_cells(results, name), *rows.damage[rows.experiment == name].dropna()]
    return list(dict.fromkeys(lines))


def write(results: Path, lines: list[str]) -> Iterator[str]:
    """Write ``frame.csv`` and, where pyarrow is, ``frame.parquet`` into a results folder; a line on each.

    Args:
        lines: gets a line on everything that is damaged.
    """
    rows = frame(results)
    lines += left_out(results, rows, experiments_with_cells(results))
    lines += [line for line in rows.damage[rows.experiment.isna()].dropna()]
    rows = with_gain(rows).drop(columns=list(OBJECTS))
    path = results / "frame.csv"
    write_text(path, rows.to_csv(index=False))
    yield f"{path}: {len(rows):,} rows, {len(rows.columns)} columns"
    path = results / "frame.parquet"
    if importlib.util.find_spec("pyarrow") is None:
        yield f"{path}: not written; Parquet needs pyarrow (pip install pyarrow)"
    else:
        rows.to_parquet(path, index=False)
        yield f"{path}: the same"
