"""What a run says when it ends: the table, the bits of each layer, and where everything lies."""

from typing import Any

from rich.console import Console
from rich.table import Table

from lampq.report.bit_allocation import bits_grid
from lampq.report.summary import MISSING, duration, summary_table
from lampq.runs.record import RunRecord, read_sensitivity
from lampq.tasks.accuracies import ACCURACIES, accuracies_in


def show(records: list[RunRecord]) -> None:
    """Print full precision and every record as one table, then the last plan's bits and the folders; of a measurement
    its rows and its folder."""
    console = Console(width=None if Console().is_terminal else 120)
    last = records[-1].metrics
    if (records[-1].folder / "sensitivity.csv").is_file():
        console.print(measurement_table(read_sensitivity(records[-1].folder)))
        console.print(f"{last['allocator']}: {records[-1].folder}", soft_wrap=True)
        return
    ends = ("", "_standard_error")
    whole = {f"{name}{end}": last.get(f"{name}_full_precision{end}") for name in accuracies_in(last) for end in ends}
    whole |= {"average_weight_bits": 32, "packed_bytes": last["full_precision_bytes"]}
    rows = [{"method": "full precision", **whole}]
    for metrics in (record.metrics for record in records):
        rows.append({**metrics, "method": method_words(metrics)})
    console.print(summary_table(rows))
    console.print(bits_grid(records[-1].plan))
    for record in records:
        console.print(f"{record.metrics['allocator']}: {record.folder}", soft_wrap=True)


def method_words(metrics: dict) -> str:
    """Base quantizer and allocator of a run, behind the transform where there is one."""
    words = (metrics.get("transform"), metrics["base_quantizer"], metrics["allocator"])
    return ", ".join(word for word in words if word)


def measurement_table(rows: list[dict[str, Any]]) -> Table:
    """What a measurement (an option of ``sensitivity``) gave, as its sensitivity.csv has it."""
    table = Table(title="On the sample set D", title_justify="left")
    columns = [name for name in rows[-1] if not name.endswith("_standard_error")]
    for name in columns:
        table.add_column(name.replace("_", " "), justify="left" if isinstance(rows[-1][name], str) else "right")
    for row in rows:
        table.add_row(*(_cell(row, name) for name in columns))
    return table


def _cell(row: dict[str, Any], name: str) -> str:
    value, error = row.get(name), row.get(f"{name}_standard_error")
    if value is None or isinstance(value, str):
        return value or MISSING
    return f"{value:.4g}" if error is None else f"{value:.3f} ± {error:.3f}"


def summary_line(record: RunRecord) -> str:
    """A run's result in one line, as a grid shows it."""
    metrics = record.metrics
    bits = f"W{metrics['weight_bits']:g}A{metrics['activation_bits']:g}"
    parts = [f"{metrics['model']}, {method_words(metrics)} {bits}"]
    for name in accuracies_in(metrics):
        error = metrics.get(f"{name}_standard_error")
        parts.append(f"{ACCURACIES[name]} {metrics[name]:.2f}" + ("" if error is None else f" ± {error:.2f}") + " %")
    if not accuracies_in(metrics) and "sample_top1" in metrics:
        parts.append(f"top-1 on D {metrics['sample_top1']:.2f} %")
    return ", ".join([*parts, duration(metrics["seconds_total"]), record.fingerprint])
