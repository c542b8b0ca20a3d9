"""Table 4: methods by detectors, average precision of boxes and of masks, the paper's beside ours."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lampq.launch.cells import NOT_AVAILABLE
from lampq.report.table import Lines, Table, marked

from . import paper
from .accuracy_table import (
    UniformRuns,
    equal_bits,
    footnote,
    noted,
    places_of,
    run_lines,
    search_cost,
    signed,
    state_of,
    uniform_runs,
)
from .measured import Row, Run, measured, precision_difference, widest

NAME = "table4"
AP = ("box_ap", "mask_ap")
ENDINGS = (
    "",
    "_standard_error",
    "50",
    "75",
    "_small",
    "_medium",
    "_large",
    "_difference",
    "_difference_standard_error",
)
LEGEND = (
    "AP in percent, boxes / masks, simulated quantization. ±: standard error by resampling images. Against equal bits: "
    "the same base quantizer without a search. Drop: to full precision. Both on the same images, paired by draw. In "
    "brackets: ours minus the paper's. Nothing is filled in from the paper."
)


def detection_table(results: Path) -> Table:
    """Put the table together from the cells in a results folder."""
    rows, printed_rows = [row for row in measured(results, NAME) if row.method], paper.detection_rows()
    known, uniform = {row.model for row in rows if row.model}, uniform_runs(rows)
    models = [m for m in paper.DETECTORS if m in known] + sorted(m for m in known if m not in paper.DETECTORS)
    body, notes, records = [_full_precision(models, rows)], [], []
    for (method, bits, variation), by_model in places_of(rows, printed_rows).items():
        printed = next((p for p in printed_rows if (p.method, p.bits) == (method, bits)), None)
        label = (printed.label if printed else method) + (f", {variation}" if variation else "")
        cells: list[Lines] = [[label], [printed.printed_bits if printed else bits]]
        for model in models:
            chosen = widest(by_model.get(model, []))
            published = printed.values.get(model) if printed else None
            lines, record = _cell(chosen, published, notes, uniform)
            cells.append(lines)
            records.append({"method": label, "w/a": bits, "model": paper.DETECTORS.get(model, model), **record})
        body.append(cells)
    missing = sorted({f"`{row.cell.reason}`" for row in rows if row.state == NOT_AVAILABLE})
    remarks = [LEGEND, *([f"Not available: {', '.join(missing)}."] if missing else [])]
    header = ["method", "W/A", *(paper.DETECTORS.get(model, model) for model in models)]
    title = "Table 4: AP of boxes / AP of masks of quantized detectors on COCO"
    return Table(NAME, title, header, body, notes, remarks, run_lines(rows), records)


def _full_precision(models: list[str], rows: list[Row]) -> list[Lines]:
    """The first row: full precision on the same images."""
    cells: list[Lines] = [["Full precision"], ["32/32"]]
    for model in models:
        runs = _runs(widest(row for row in rows if row.model == model))
        lines = [_pair(runs[0].metrics, "_full_precision")] if runs else ["–"]
        if model in (published := paper.detection_full_precision()):
            lines.append(f"paper {published[model]}")
        cells.append(lines)
    return cells


def _cell(
    rows: list[Row], published: str | None, notes: list[str], uniform: UniformRuns
) -> tuple[Lines, dict[str, Any]]:
    """What a cell says, of its first run, and the record of it; footnotes are added to `notes`.

    Args:
        uniform: runs of equal bits.
    """
    runs = _runs(rows)
    beside = [] if published is None else [f"paper {published}"]
    if not runs:
        return [state_of(rows), *beside], {"state": state_of(rows), "paper": published}
    run, record = runs[0], _record(runs[0], published)
    mark = footnote(run)
    lines = [_pair(run.metrics) + (marked(noted(notes, mark)) if mark else "")]
    if published is not None:
        more = [run.metrics[ap] - float(value) for ap, value in zip(AP, published.split(" / "), strict=True)]
        beside = [f"paper {published} ({' / '.join(map(signed, more))})"]
    ahead = _against_equal_bits(run, uniform)
    if ahead:
        lines.append(f"against equal bits {_pair(ahead, '_uniform_difference', signed)}")
    lines += [*beside, f"drop {_pair(run.metrics, '_difference', signed)}"]
    searched = search_cost([run])
    return lines + ([f"search: {searched}"] if searched else []), record | ahead


def _against_equal_bits(run: Run, uniform: UniformRuns) -> dict[str, float]:
    """Points of AP by which a searched plan is ahead of equal bits and their errors; empty where there are none."""
    for other in equal_bits(run, uniform):
        with contextlib.suppress(ValueError):  # on other images, or without draws
            ahead = {}
            for ap in AP:
                difference, error = precision_difference(run, other, ap)
                name = f"{ap}_uniform_difference"
                ahead |= {name: difference, f"{name}_standard_error": error}
            return ahead
    return {}


def _record(run: Run, published: str | None) -> dict[str, Any]:
    """The numbers of a run in long form."""
    metrics, where = run.metrics, run.environment
    names = [f"{ap}{end}" for ap in AP for end in ENDINGS]
    names += ["images", "sample_images", "evaluations", "average_weight_bits", "packed_bytes", "bops"]
    names += ["seconds_allocate", "seconds_total", "seconds_cold", "seed"]
    record = {"state": "done", **{name: metrics.get(name) for name in names}, "paper": published}
    record |= {name: where.get(name) for name in ("device", "processor", "threads", "commit", "started", "command")}
    return {**record, "fingerprint": run.fingerprint}


def _runs(rows: list[Row]) -> list[Run]:
    return [row.run for row in rows if row.run is not None and AP[0] in row.run.metrics]


def _pair(metrics: dict[str, Any], ending: str = "", shown: Callable[[float], str] = "{:.2f}".format) -> str:
    """Boxes and masks, each with its error where there is one."""
    parts = []
    for name in (ap + ending for ap in AP):
        error = metrics.get(f"{name}_standard_error")
        parts.append(shown(metrics[name]) + ("" if error is None else f" ± {error:.2f}"))
    return " / ".join(parts)
