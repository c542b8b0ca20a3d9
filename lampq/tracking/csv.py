"""runs.csv: one row a finished run. A view, rebuilt from the run folders, which are the truth."""

import csv
import json
import logging
import os
from pathlib import Path

from lampq.lock import hold

log = logging.getLogger(__name__)

LABELS = (
    "fingerprint",
    "model",
    "dataset",
    "base_quantizer",
    "allocator",
    "weight_bits",
    "activation_bits",
    "seed",
)
METRICS = (
    "top1",
    "top5",
    "top1_standard_error",
    "top1_full_precision",
    "top1_difference",
    "top1_difference_standard_error",
    "box_ap",
    "box_ap_standard_error",
    "box_ap_full_precision",
    "box_ap_difference",
    "box_ap_difference_standard_error",
    "mask_ap",
    "mask_ap_standard_error",
    "mask_ap_full_precision",
    "mask_ap_difference",
    "mask_ap_difference_standard_error",
    "images",
    "budget_unit",
    "average_weight_bits",
    "average_weight_bits_all",
    "average_activation_bits",
    "average_operand_bits",
    "bops",
    "packed_bytes",
    "seconds_calibrate",
    "seconds_allocate",
    "seconds_evaluate",
    "seconds_total",
    "seconds_cold",
)
"""Columns that come first, in this order; any others follow, sorted."""


def rebuild_runs_csv(results: Path) -> Path:
    """Write ``results/runs.csv`` anew from the finished runs in ``results/runs/*/metrics.json``.

    Reading and writing happen under one lock and the file is replaced as a whole, so of two processes that finish
    at once the later one writes both rows. A run without metrics is not finished and has no row; one that cannot be
    read is left out with a warning.

    Returns:
        The path of the file.
    """
    results = Path(results)
    runs = results / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    target = results / "runs.csv"
    with hold(runs / ".runs.csv.lock", "runs.csv"):
        rows = sorted(filter(None, map(_read_run, sorted(runs.iterdir()))), key=_order)
        present = {name for row in rows for name in row}
        columns = [*LABELS, *(name for name in METRICS if name in present)]
        columns += sorted(present.difference(columns))
        temporary = runs / f".runs.csv.{os.getpid()}.tmp"
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, target)
    return target


def _read_run(folder: Path) -> dict | None:
    """The row of a run, or None where it is not finished or not readable."""
    path = folder / "metrics.json"
    if not path.is_file():
        return None
    try:
        row = json.loads(path.read_text())
        if not isinstance(row, dict):
            raise ValueError("not a table of names and values")
        missing = [name for name in LABELS if name not in row]
        if missing:
            raise ValueError(f"without {', '.join(missing)}")
        _order(row)
    except (OSError, ValueError, TypeError) as error:
        log.warning("runs.csv leaves out %s (%s): remove the folder, and run it again", folder, error)
        return None
    return row


def _order(row: dict) -> tuple:
    words = (str(row[name]) for name in ("model", "dataset", "base_quantizer", "allocator"))
    return *words, float(row["weight_bits"]), float(row["activation_bits"]), str(row["fingerprint"])
