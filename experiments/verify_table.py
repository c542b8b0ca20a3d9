"""The table of `python -m experiments verify`: what a run's model gives in each runtime, a block a run."""

import csv
from typing import Any

import pandas as pd

from lampq.report.summary import size
from lampq.report.table import NOTHING, Table
from lampq.runs.finished_run import VERIFIED

from . import paper
from .measured import Run

NAME = "verify"
FULL_PRECISION = "full precision, PyTorch"

REMARKS = [
    "Agreement: the share of images whose first class is the simulation's. Codes: those of all quantized activations "
    "of the first images, compared with the simulation's. `simulation, float64` is the simulated network in double "
    "precision. It differs from the simulation by the last bits of LayerNorm, softmax, GELU and sums alone, so it "
    "shows what these can do where a value lies at the border between two codes.",
    "Bytes are those on disk (full precision in PyTorch: four a parameter; OpenVINO: both of its files). Milliseconds "
    "are of one batch after another in one process; compare them within a block.",
]

FIGURES = {
    "images": ("images", "{:d}"),
    "top1": ("top-1 %", "{:.2f}"),
    "agreement": ("agreement %", "{:.2f}"),
    "codes_differ": ("codes that differ %", "{:.4f}"),
    "difference": ("logits differ by", "{:.2e}"),
    "bytes": ("bytes", "{:,d}"),
    "ms_per_image": ("ms/image", "{:.2f}"),
}
"""Columns of the file, what they are called in the table, and how they are written there."""


def checks(run: Run) -> list[dict[str, Any]]:
    """Rows of a run's verify.csv, a row a runtime: numbers as numbers, None where there is none."""
    with (run.folder / VERIFIED).open(newline="", encoding="utf-8") as file:
        return [{key: _value(key, text) for key, text in row.items()} for row in csv.DictReader(file)]


def verify_table(rows: pd.DataFrame) -> Table:
    """The table of all runs that were verified.

    Args:
        rows: of the frame, one a run.
    """
    body: list[list[str]] = []
    records: list[dict[str, Any]] = []
    sources = []
    for run in rows.run.dropna():
        found, about = checks(run), _named(run)
        full = {row["runtime"]: row["bytes"] for row in found}[FULL_PRECISION]
        body.append([f"{about}: packed {size(run.metrics['packed_bytes'])}, full precision {size(full)}"])
        body += [_cells(row) for row in found]
        of = ("fingerprint", "model", "base_quantizer", "allocator", "weight_bits", "activation_bits", "packed_bytes")
        records += [{**{name: run.metrics[name] for name in of}, "full_precision_bytes": full, **row} for row in found]
        first = found[0]
        sources.append(
            f"{about}: `{run.fingerprint}`: `python {first['command']}`; commit {first['commit']}, {first['device']}, "
            f"{first['processor']}, {first['threads']} threads, {first['started']}, {first['packages']}"
        )
    header = ["runtime", *(called for called, _ in FIGURES.values())]
    title = "The saved model in each runtime, beside the simulation"
    return Table(NAME, title, header, body, pd.DataFrame(records), remarks=REMARKS, sources=sources)


def _named(run: Run) -> str:
    metrics = run.metrics
    bits = f"W{metrics['weight_bits']:g}A{metrics['activation_bits']:g}"
    model = paper.MODELS.get(metrics["model"], metrics["model"])
    words = (model, metrics.get("transform"), metrics["base_quantizer"], metrics["allocator"], bits)
    return ", ".join(word for word in words if word)


def _cells(row: dict[str, Any]) -> list[str]:
    cells = {key: NOTHING if row[key] is None else form.format(row[key]) for key, (_, form) in FIGURES.items()}
    cells["top1"] += f" ± {row['top1_error']:.2f}"
    return [row["runtime"], *cells.values()]


def _value(key: str, text: str) -> Any:
    if not text:
        return None
    if key == "top1_error" or key in FIGURES:
        return int(text) if key in ("images", "bytes") else float(text)
    return text
