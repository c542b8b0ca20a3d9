"""A table of runs, the paper's figures in columns of their own: CSV for machines, Markdown for readers."""

import csv
import json
import math
import statistics
from pathlib import Path

from .paper import published_top1

COLUMNS = (
    "method",
    "bits",
    "top1",
    "top1_standard_error",
    "top1_difference",
    "top1_difference_standard_error",
    "uniform_difference",
    "uniform_difference_standard_error",
    "paper_top1",
    "paper_top1_difference",
    "top1_at_paper_full_precision",
    "images",
    "average_weight_bits",
    "average_activation_bits",
    "packed_bytes",
    "seconds_total",
    "seconds_cold",
    "device",
    "processor",
    "threads",
    "seed",
    "commit",
    "started",
    "fingerprint",
    "command",
)

LEGEND = """\
- difference: to full precision on the same images. Plus-minus: standard errors; of differences, paired by image.
- against uniform: LampQ minus the same base quantizer at uniform bits, paired by image.
- at the paper's full precision: images are easier or harder than the whole validation set. This column weighs ours so
  that full precision is as often right as the paper prints: share of images kept right (and put right) by quantization
  times the paper's full-precision accuracy (and its complement). It is what to hold against the paper's top-1.
- seconds: of this run, reading what earlier runs had stored; cold bank: with what that had cost added."""


def write_run_table(target: Path, folders: list[Path]) -> None:
    """Write table.csv and table.md of published run folders, in the given order."""
    runs = [_Run(folder) for folder in folders]
    rows = [run.row(_uniform_partner(run, runs)) for run in runs]
    with (target / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    (target / "table.md").write_text(_markdown(runs, rows))


class _Run:
    def __init__(self, folder: Path) -> None:
        self.metrics = json.loads((folder / "metrics.json").read_text())
        self.environment = json.loads((folder / "environment.json").read_text())
        origin = json.loads((folder / "plan.json").read_text())["origin"]
        pairs = origin.get("settings", {}).get("try_next_pairs")
        self.further_pairs = "" if pairs is None else f" (tries {pairs} further pairs)"
        with (folder / "outcomes.csv").open(newline="") as file:
            outcomes = list(csv.DictReader(file))
        self.full_precision = [int(row["full_precision_top1"]) for row in outcomes]
        self.quantized = [int(row["top1"]) for row in outcomes]
        self.cell = (self.metrics["base_quantizer"], self.metrics["allocator"], self.metrics["weight_bits"])
        self.revision = json.loads((folder / "identity.json").read_text())["base_quantizer"][1]

    def row(self, uniform: "_Run | None") -> dict:
        metrics = self.metrics
        paper = published_top1(metrics["model"], *self.cell)
        paper_full = published_top1(metrics["model"], "full_precision", "", 32)
        row = {column: metrics.get(column, self.environment.get(column)) for column in COLUMNS}
        row["method"] = f"{self.cell[0]} (revision {self.revision}), {self.cell[1]}{self.further_pairs}"
        row["bits"] = f"W{metrics['weight_bits']:g}A{metrics['activation_bits']:g}"
        if uniform is not None:
            differences = [a - b for a, b in zip(self.quantized, uniform.quantized, strict=True)]
            row["uniform_difference"] = 100 * statistics.fmean(differences)
            error = statistics.stdev(differences) / math.sqrt(len(differences))
            row["uniform_difference_standard_error"] = 100 * error
        if paper is not None:
            row["paper_top1"], row["paper_top1_difference"] = paper, round(paper - paper_full, 2)
        if paper_full is not None:
            row["top1_at_paper_full_precision"] = self.at_full_precision(paper_full)
        return row

    def at_full_precision(self, accuracy: float) -> float:
        """Top-1 (percent) if the full-precision model were right on `accuracy` percent of the images."""
        kept = [q for q, f in zip(self.quantized, self.full_precision, strict=True) if f]
        gained = [q for q, f in zip(self.quantized, self.full_precision, strict=True) if not f]
        right, wrong = (statistics.fmean(values) if values else 0.0 for values in (kept, gained))
        return accuracy * right + (100 - accuracy) * wrong


def _uniform_partner(run: _Run, runs: list[_Run]) -> _Run | None:
    wanted = (run.cell[0], "uniform", run.cell[2], run.revision)
    return next((other for other in runs if (*other.cell, other.revision) == wanted and other is not run), None)


def _markdown(runs: list[_Run], rows: list[dict]) -> str:
    first = runs[0].metrics
    full = f"{first['top1_full_precision']:.2f} ± {first['top1_full_precision_standard_error']:.2f}"
    paper_full = published_top1(first["model"], "full_precision", "", 32)
    lines = [
        f"# {first['model']} on {first['images']} validation images of {first['dataset']}, simulated quantization",
        "",
        f"Full precision: {full} % top-1 on these images"
        + (f"; the paper prints {paper_full:.2f} % on its 50,000." if paper_full else "."),
        "",
        "| method | bits | top-1 % | difference | against uniform | at the paper's full precision | paper: top-1 "
        "| paper: difference | average weight bits | packed MB | seconds | cold bank |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            row["method"],
            row["bits"],
            _number(row["top1"], row["top1_standard_error"]),
            _number(row["top1_difference"], row["top1_difference_standard_error"]),
            _number(row["uniform_difference"], row["uniform_difference_standard_error"]),
            _number(row["top1_at_paper_full_precision"]),
            _number(row["paper_top1"]),
            _number(row["paper_top1_difference"]),
            f"{row['average_weight_bits']:.4f}",
            f"{row['packed_bytes'] / 1e6:.2f}",
            f"{row['seconds_total']:.0f}",
            f"{row['seconds_cold']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *LEGEND.splitlines(), "", "Commands:", ""]
    lines += [
        f"- {row['method']}, {row['bits']} (`{row['fingerprint']}`): `{row['command']}`; commit {row['commit']}, seed "
        f"{row['seed']}, {row['processor']}, {row['device']}, {row['threads']} threads, {row['started']}"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _number(value: float | None, error: float | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"
