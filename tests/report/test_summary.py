"""The table that a run ends with."""

import pytest
from rich.console import Console

from lampq.report.summary import duration, size, summary_table

ROWS = [
    {"method": "full precision", "top1": 72.134, "top1_standard_error": 0.871},
    {
        "method": "AdaLog, uniform",
        "top1": 71.2,
        "top1_standard_error": 0.9,
        "top1_difference": -3.2,
        "top1_difference_standard_error": 0.5,
        "average_weight_bits": 3.0,
        "packed_bytes": 2_345_678,
        "seconds_total": 12.34,
    },
    {"method": "AdaLog, LampQ", "top1": 72.5, "top1_difference": 0.0, "packed_bytes": None, "seconds_total": 3700},
]


def cells(rows, width=100):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(summary_table(rows))
    text = capture.get()
    lines = [line.strip("│").split("│") for line in text.splitlines() if line.startswith("│")]
    return text, [[cell.strip() for cell in line] for line in lines]


def test_rows_have_units_uncertainty_and_dashes_for_what_is_missing():
    text, rows = cells(ROWS)
    assert "simulated quantization" in text
    assert rows == [
        ["full precision", "72.13 ± 0.87", "-", "-", "-", "-"],
        ["AdaLog, uniform", "71.20 ± 0.90", "-3.20 ± 0.50", "3.00", "2.35 MB", "12.3 s"],
        ["AdaLog, LampQ", "72.50", "+0.00", "-", "-", "1 h 02 min"],
    ]


def test_numbers_are_aligned_right():
    text, _ = cells(ROWS)
    for line in (line for line in text.splitlines() if line.startswith("│")):
        assert all(cell.endswith(" ") and not cell.endswith("  ") for cell in line.strip("│").split("│")[1:])


def test_a_value_that_is_not_a_number_is_missing():
    assert cells([{"method": "a", "top1": float("nan"), "top1_standard_error": 1.0}])[1][0][1] == "-"


@pytest.mark.parametrize(
    ("count", "words"),
    [(999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.00 MB"), (86_567_656, "86.57 MB")],
)
def test_size(count, words):
    assert size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (99.9, "99.9 s"), (99.96, "1 min 40 s"), (3599.4, "59 min 59 s"), (3599.6, "1 h 00 min")],
)
def test_duration(seconds, words):
    assert duration(seconds) == words
