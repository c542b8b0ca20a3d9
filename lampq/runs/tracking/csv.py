"""runs.csv: one row a finished run. A view, rebuilt from the run folders, which are the truth."""

import json
import logging
from pathlib import Path

from lampq.runs.finished_run import LABELS, DamagedRun, ended, read_run, signature
from lampq.storage.atomic_write import write_rows, write_text
from lampq.storage.lock import hold

log = logging.getLogger(__name__)

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


SEEN = ".runs.csv.seen"
"""Beside the runs: which of them were read and found in order, each with the sizes and times of its files then."""


def rebuild_runs_csv(results: Path) -> Path:
    """Write ``results/runs.csv`` anew from the finished runs in ``results/runs``.

    Reading and writing happen under one lock and the file is replaced as a whole, so of two processes that finish
    at once the later one writes both rows. A run that has not ended has no row; a damaged one is left out with a
    warning. Of a run whose files were not written to since they were last found in order, only the metrics are read.

    Returns:
        The path of the file.
    """
    results = Path(results)
    runs = results / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    target = results / "runs.csv"
    with hold(runs / ".runs.csv.lock", "runs.csv"):
        before = _seen(runs / SEEN)
        found = {f.name: _row(f, before.get(f.name)) for f in sorted(runs.iterdir()) if not f.name.startswith(".")}
        found = {name: each for name, each in found.items() if each is not None}
        rows = sorted((row for row, _ in found.values()), key=_order)
        present = {name for row in rows for name in row}
        columns = [*LABELS, *(name for name in METRICS if name in present)]
        write_rows(target, rows, [*columns, *sorted(present.difference(columns))])
        seen = {name: signed for name, (_, signed) in found.items()}
        if seen != before:
            write_text(runs / SEEN, json.dumps(seen))
    return target


def _seen(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _row(folder: Path, seen: object) -> tuple[dict, str] | None:
    """A run's metrics and the signature that its files have; None where it has not ended or is damaged."""
    try:
        signed = signature(folder)
        if signed == seen:
            return json.loads((folder / "metrics.json").read_text(encoding="utf-8")), signed
        if not ended(folder):
            return None
        return read_run(folder).metrics, signed
    except (OSError, ValueError) as error:  # it goes while it is read
        log.warning("runs.csv leaves out %s (%s)", folder, error)
    except DamagedRun as error:
        log.warning("runs.csv leaves out %s", error)
    return None


def _order(row: dict) -> tuple:
    words = (str(row[name]) for name in ("model", "dataset", "base_quantizer", "allocator"))
    return *words, float(row["weight_bits"]), float(row["activation_bits"]), str(row["fingerprint"])
