"""Every allocator beside each other: accuracy, the gain over equal bits, and what the search cost."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lampq.launch.cells import NOT_AVAILABLE
from lampq.report.summary import duration, size
from lampq.report.table import Lines, Table, marked

from . import paper
from .accuracy_table import (
    UniformRuns,
    against_uniform,
    bits_of,
    footnote,
    is_uniform,
    noted,
    record_of,
    run_lines,
    scored_images,
    signed,
    state_of,
    uniform_runs,
)
from .measured import Row, Run, measured, widest
from .methods import in_order, label

NAME = "allocators"

LEGEND = (
    "Top-1 in percent on the validation images, simulated quantization, one base quantizer throughout. ±: standard "
    "error over images, or, of several seeds, standard deviation over seeds. Against equal bits: paired by image. On "
    "D: what the search itself saw, the images that it chose by among them. Plans: scored on D in the search. Time: of "
    "the whole run, and, in brackets, of one that finds nothing on disk. Average bits: of the weights of the 4N layers."
)
HEADER = [
    "method",
    "W/A",
    "top-1",
    "against equal bits",
    "on D",
    "plans",
    "images a plan",
    "time (cold)",
    "average bits",
    "packed",
]


def allocators_table(results: Path) -> Table:
    """Rows: full precision, then every method at each target, a block a model where there are several."""
    rows = [row for row in measured(results, NAME) if row.method]
    known, uniform = {row.model for row in rows if row.model}, uniform_runs(rows)
    models = [m for m in paper.MODELS if m in known] + sorted(known - set(paper.MODELS))
    notes: list[str] = []
    body: list[list[Lines]] = []
    records: list[dict[str, Any]] = []
    for model in models:
        mine = [row for row in rows if row.model == model]
        named = paper.MODELS.get(model, model)
        body.append(_full_precision(mine, named))
        for bits in sorted({bits_of(row) for row in mine}):
            here = [row for row in mine if bits_of(row) == bits]
            for method in in_order({row.method for row in here}):
                for variation in sorted({row.variation for row in here if row.method == method}):
                    chosen = widest(r for r in here if (r.method, r.variation) == (method, variation))
                    called = label(method) + (f", {variation}" if variation else "")
                    cells, found = _row(chosen, uniform, notes)
                    body.append([[called], [bits], *cells])
                    records += [{"method": called, "w/a": bits, "model": named, **r} for r in found]
    missing = sorted({f"`{row.cell.reason}`" for row in rows if row.state == NOT_AVAILABLE})
    remarks = [LEGEND] + ([f"Not available: {', '.join(missing)}."] if missing else [])
    title = f"Allocators beside each other: {', '.join(paper.MODELS.get(m, m) for m in models)}"
    return Table(NAME, title, HEADER, body, notes, remarks, run_lines(rows), records)


def _full_precision(rows: list[Row], model: str) -> list[Lines]:
    """The first row of a model: full precision on the same images."""
    runs = [r.run for r in widest(rows) if r.run and "images" in r.run.metrics]
    top1 = "–"
    if runs:
        metrics = runs[0].metrics
        top1 = f"{metrics['top1_full_precision']:.2f} ± {metrics['top1_full_precision_standard_error']:.2f}"
    return [[f"{model}, full precision"], ["32/32"], [top1], *[["–"]] * (len(HEADER) - 3)]


def _row(chosen: list[Row], uniform: UniformRuns, notes: list[str]) -> tuple[list[Lines], list[dict[str, Any]]]:
    """The cells of one method at one target, after its name and bits, and its records."""
    runs = [row.run for row in chosen if row.run is not None and "top1" in row.run.metrics]
    if not runs:
        state = state_of(chosen)
        return [[state], *[["–"]] * (len(HEADER) - 3)], [{"state": state}]
    records = [record_of(run) | against_uniform(run, uniform) for run in runs]
    marks = "".join(marked(noted(notes, text)) for text in dict.fromkeys(map(footnote, runs)) if text)
    seeds = [f"{len(runs)} seeds"] if len(runs) > 1 else []
    ahead = [r for r in records if "uniform_difference" in r]
    searched = [run for run in runs if run.metrics.get("evaluations") is not None and not is_uniform(run)]
    cells = [
        [_spread(records, "top1") + marks, *seeds],
        [_spread(ahead, "uniform_difference", signed)] if ahead else ["–"],
        [_on_d(searched)] if searched else ["–"],
        [_range(searched, "evaluations")] if searched else ["0"],
        [f"{scored_images(searched[0]):,}"] if searched else ["–"],
        [f"{duration(_mean(runs, 'seconds_total'))} ({duration(_mean(runs, 'seconds_cold'))})"],
        [f"{_mean(runs, 'average_weight_bits'):.2f}"],
        [size(_mean(runs, "packed_bytes"))] if all("packed_bytes" in run.metrics for run in runs) else ["–"],
    ]
    return cells, records


def _on_d(runs: list[Run]) -> str:
    values = [run.metrics["sample_top1"] for run in runs]
    error = statistics.stdev(values) if len(values) > 1 else runs[0].sample_top1_standard_error
    return f"{statistics.fmean(values):.2f} ± {error:.2f}"


def _mean(runs: list[Run], name: str) -> float:
    return statistics.fmean(run.metrics[name] for run in runs)


def _range(runs: list[Run], name: str) -> str:
    low, high = (pick(run.metrics[name] for run in runs) for pick in (min, max))
    return f"{low}" if low == high else f"{low} to {high}"


def _spread(records: list[dict[str, Any]], name: str, form: Callable[[float], str] = "{:.2f}".format) -> str:
    """Mean of the records' value with its error: over images of one run, over seeds of several."""
    values = [record[name] for record in records]
    error = statistics.stdev(values) if len(values) > 1 else records[0][f"{name}_standard_error"]
    return f"{form(statistics.fmean(values))} ± {error:.2f}"
