"""The figure of a finished run: the bits of each layer, or what single components or single changes cost."""

from lampq.report.bit_allocation import draw_bit_allocation
from lampq.report.changes import draw_changes
from lampq.report.sensitivity import draw_sensitivity
from lampq.report.style import drawn
from lampq.runs.record import RunRecord, read_sensitivity
from lampq.tasks.accuracies import accuracies_in


def draw_run(record: RunRecord) -> None:
    """Draw a finished run's figure; where that fails, the next run of the same command tries again."""
    if (record.folder / "sensitivity.csv").is_file():
        rows = read_sensitivity(record.folder)
        drawn(draw_changes if rows[0]["unit"] == "changes" else draw_sensitivity, rows, record.figure)
    elif accuracies_in(record.metrics):
        drawn(draw_bit_allocation, record.plan, record.figure, record.metrics)
