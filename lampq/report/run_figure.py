"""The figure of a finished run: the bits of each layer, or what single components cost."""

from lampq.report.bit_allocation import draw_bit_allocation
from lampq.report.sensitivity import draw_sensitivity
from lampq.report.style import drawn
from lampq.runs.record import RunRecord, read_sensitivity
from lampq.tasks.accuracies import accuracies_in


def draw_run(record: RunRecord) -> None:
    """Draw a finished run's figure; where that fails, the next run of the same command tries again."""
    if (record.folder / "sensitivity.csv").is_file():
        drawn(draw_sensitivity, read_sensitivity(record.folder), record.figure)
    elif accuracies_in(record.metrics):
        drawn(draw_bit_allocation, record.plan, record.figure, record.metrics)
