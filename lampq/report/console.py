"""What a run says when it ends: the table, the bits of each layer, and where everything lies."""

from rich.console import Console

from lampq.record import RunRecord
from lampq.report.bit_allocation import bits_grid
from lampq.report.summary import duration, summary_table

COPIED = (
    "top1",
    "top1_standard_error",
    "top1_difference",
    "top1_difference_standard_error",
    "average_weight_bits",
    "average_activation_bits",
    "packed_bytes",
    "seconds_total",
)


def show(records: list[RunRecord]) -> None:
    """Print full precision and every record as one table, then the last plan's bits and the folders."""
    console = Console(width=None if Console().is_terminal else 120)
    last = records[-1].metrics
    rows = [
        {
            "method": "full precision",
            "top1": last["top1_full_precision"],
            "top1_standard_error": last["top1_full_precision_standard_error"],
            "average_weight_bits": 32,
            "average_activation_bits": 32,
            "packed_bytes": last["full_precision_bytes"],
        }
    ]
    for record in records:
        metrics = record.metrics
        method = f"{metrics['base_quantizer']}, {metrics['allocator']}"
        rows.append({"method": method, **{name: metrics[name] for name in COPIED}})
    console.print(summary_table(rows))
    console.print(bits_grid(records[-1].plan))
    for record in records:
        console.print(f"{record.metrics['allocator']}: {record.folder}", soft_wrap=True)


def summary_line(record: RunRecord) -> str:
    """A run's result in one line, as a grid shows it."""
    metrics = record.metrics
    bits = f"W{metrics['weight_bits']:g}A{metrics['activation_bits']:g}"
    parts = [f"{metrics['model']}, {metrics['base_quantizer']}, {metrics['allocator']} {bits}"]
    if "top1" in metrics:
        parts.append(f"top-1 {metrics['top1']:.2f} ± {metrics['top1_standard_error']:.2f} %")
    elif "sample_top1" in metrics:
        parts.append(f"top-1 on D {metrics['sample_top1']:.2f} %")
    return ", ".join([*parts, duration(metrics["seconds_total"]), record.fingerprint])
