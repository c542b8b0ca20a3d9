"""Table 10: how long quantization takes, each method from nothing."""

from pathlib import Path
from typing import Any

from lampq.report.summary import duration
from lampq.report.table import Lines, Table, marked

from . import paper
from .accuracy_table import bits_of, footnote, state_of
from .measured import Row, measured, widest

NAME = "table10"


def runtime_table(results: Path) -> Table:
    """Seconds of calibration and search, evaluation of the result left out, beside the paper's and the ratios."""
    rows = [row for row in measured(results, NAME) if row.method]
    known = {row.model for row in rows}
    models = [m for m in paper.MODELS if m in known] + sorted(m for m in known if m and m not in paper.MODELS)
    printed_rows = paper.accuracy_rows(10, paper.METHODS)
    places = [(p.method, p.bits, "") for p in printed_rows] + [_place(row) for row in rows]
    notes: list[str] = []
    body: list[list[Lines]] = []
    records: list[dict[str, Any]] = []
    for method, bits, variation in dict.fromkeys(places):
        printed = next((p for p in printed_rows if (p.method, p.bits) == (method, bits)), None)
        label = (printed.label if printed else method) + (f", {variation}" if variation else "")
        cells: list[Lines] = [[label], [printed.printed_bits if printed else bits]]
        for model in models:
            mine = [r for r in rows if r.model == model]
            chosen = widest(r for r in mine if _place(r) == (method, bits, variation))
            base = _seconds(widest(r for r in mine if _place(r) == ("adalog", bits, "")))
            seconds, published = _seconds(chosen), printed.values.get(model) if printed else None
            lines = [state_of(chosen)] if seconds is None else [duration(seconds)]
            if seconds is not None:
                text = footnote(chosen[0].run)
                if text:
                    if text not in notes:
                        notes.append(text)
                    lines[0] += marked(notes.index(text))
                if base and method != "adalog":
                    lines.append(f"{seconds / base:.2f} times AdaLog")
                place = {"method": label, "w/a": bits, "model": paper.MODELS.get(model, model)}
                records.append({**place, **_record(chosen[0])})
            if published is not None:
                lines.append(f"paper {published}")
            cells.append(lines)
        body.append(cells)
    remarks = [
        "Wall time of calibration and search in one process, nothing read from disk (`bank=fresh`), without the "
        "evaluation of the result. The paper's times are of an RTX 4090, ours of the device in table10.csv: compare "
        "ratios to AdaLog (paper: LampQ 1.96 on ViT-S, 1.74 on DeiT-S, 1.55 on Swin-S)."
    ]
    header = ["method", "W/A", *(paper.MODELS.get(m, m) for m in models)]
    return Table(NAME, "Table 10: time of quantization at 3 bits", header, body, notes, remarks, [], records)


def _place(row: Row) -> tuple[str, str, str]:
    """The row of the table that a cell belongs to."""
    return row.method, bits_of(row), row.variation


def _seconds(rows: list[Row]) -> float | None:
    if not rows or rows[0].run is None:
        return None
    metrics = rows[0].run.metrics
    return metrics["seconds_calibrate"] + metrics["seconds_allocate"]


def _record(row: Row) -> dict[str, Any]:
    metrics, environment = row.run.metrics, row.run.environment
    record = {name: metrics[name] for name in ("seconds_calibrate", "seconds_allocate", "seed")}
    record |= {name: metrics.get(name) for name in ("sample_images", "evaluations")}
    record |= {n: environment.get(n) for n in ("device", "processor", "threads", "commit", "started", "command")}
    return {"seconds": _seconds([row]), **record, "fingerprint": row.run.fingerprint}
