"""The grid of table 8: which point is best on D, what the grid cost, and the winner as a preset."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lampq.report.summary import duration
from lampq.report.table import Table
from lampq.storage.atomic_write import write_text

from .measured import Row, measured

NAME = "grid"
AXES = ("lampq.mu", "bit_set", "lampq.gamma", "lampq.beta")
SHOWN = 10
"""Points in the table for readers; the CSV has all."""
PRINTED_COMBINATIONS = 448
"""Of table 8, one bit set of four being printed twice."""


@dataclass(frozen=True)
class Search:
    """The points of one model and target.

    Attributes:
        model: as in ``model=NAME``.
        weight_bits, activation_bits: target.
        rows: its points, the best on D first: accuracy, then mean loss, then the order of the overrides.
    """

    model: str
    weight_bits: float
    activation_bits: float
    rows: list[Row]

    @property
    def name(self) -> str:
        """``deit_tiny_w3``, or ``deit_tiny_w4a8`` where the targets differ."""
        differ = self.weight_bits != self.activation_bits
        model = re.sub(r"[^\w.-]", "_", self.model)  # it becomes the name of files
        return f"{model}_w{self.weight_bits:g}" + (f"a{self.activation_bits:g}" if differ else "")

    @property
    def target(self) -> str:
        """The target as on the command line."""
        if self.weight_bits == self.activation_bits:
            return f"bits={self.weight_bits:g}"
        return f"weight_bits={self.weight_bits:g} activation_bits={self.activation_bits:g}"


def searches(results: Path) -> list[Search]:
    """The grids in a results folder, one a model and target; of several sizes of D, the largest.

    A run that several cells led to is one point; what names no place on the axes is none.
    """
    groups: dict[tuple, list[Row]] = {}
    seen = set()
    for row in measured(results, NAME):
        if row.run is None or "sample_top1" not in row.run.metrics or not row.cell.overrides.keys() >= set(AXES):
            continue
        if row.run.fingerprint in seen or not all(re.fullmatch(r"[\w.]+", row.cell.overrides[axis]) for axis in AXES):
            continue
        seen.add(row.run.fingerprint)
        metrics = row.run.metrics
        key = (row.model, metrics["weight_bits"], metrics["activation_bits"])
        groups.setdefault(key, []).append(row)
    found = []
    for (model, weight, activation), rows in groups.items():
        size = max(row.run.metrics["sample_images"] for row in rows)
        kept = [row for row in rows if row.run.metrics["sample_images"] == size]
        ranked = sorted(kept, key=lambda row: (-row.run.metrics["sample_top1"], row.run.metrics["sample_loss"]))
        found.append(Search(model, weight, activation, ranked))
    return found


def grid_table(search: Search) -> Table:
    """The best points on D, the spread over all of them, and what the grid cost beside one run."""
    runs = [row.run for row in search.rows]
    records = [_record(row) for row in search.rows]
    plans = {run.plan.key() for run in runs}
    spent = sum(run.metrics["seconds_total"] for run in runs)
    on_plans = sum(run.metrics.get("seconds_plans", 0.0) for run in runs)
    cold = sorted(run.metrics["seconds_cold"] for run in runs)
    median = cold[len(cold) // 2]
    first = min(search.rows, key=lambda row: row.run.environment["started"]).run
    accuracies = sorted(run.metrics["sample_top1"] for run in runs)
    body = [
        [
            [str(place + 1)],
            *([str(record[axis])] for axis in AXES),
            [f"{record['sample_top1']:.2f}"],
            [f"{record['sample_loss']:.4f}"],
            [str(record["evaluations"])],
        ]
        for place, record in enumerate(records[:SHOWN])
    ]
    remarks = [
        f"{len(runs)} different points of the {PRINTED_COMBINATIONS} combinations of table 8 (the paper prints the set "
        f"{{2,3,4,5}} twice), which end in {len(plans)} different plans. Accuracy on D from {accuracies[0]:.2f} to "
        f"{accuracies[-1]:.2f} %, median {accuracies[len(accuracies) // 2]:.2f} %. Validation images: not looked at.",
        f"Time: {duration(spent)} for all points together, of which {duration(on_plans)} went into measuring plans "
        f"that no point before had met, on D and layer by layer; the rest is {(spent - on_plans) / median:.1f} times "
        f"one LampQ run with nothing on disk ({duration(cold[0])} to {duration(cold[-1])}, median {duration(median)}). "
        f"Without what they share the points would have taken {duration(sum(cold))}, {sum(cold) / spent:.1f} times as "
        "long.",
        f"Device of the first point: {first.environment['processor']}, {first.environment['device']}, "
        f"{first.environment['threads']} threads, commit {first.environment['commit']}.",
        f"The winner as a preset: `python run.py --config-dir {runs[0].results / 'presets'} lampq={search.name} "
        f"model={search.model} {search.target}`.",
    ]
    header = ["rank", "μ", "bit set", "γ", "β", "top-1 on D (%)", "mean loss on D", "plans scored"]
    title = (
        f"Table 8, searched: {search.model} at {search.weight_bits:g} bits, D of {records[0]['sample_images']} images"
    )
    return Table(f"grid_{search.name}", title, header, body, [], remarks, [], records)


def write_preset(search: Search, results: Path) -> Path:
    """Write the winner as ``lampq=NAME`` for ``--config-dir results/presets``."""
    best = search.rows[0]
    values = best.cell.overrides
    path = results / "presets" / "lampq" / f"{search.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"""\
# @package _global_
# The best of the grid for {search.model} at {search.weight_bits:g} bits, run {best.run.fingerprint}.
# Top-1 on D: {best.run.metrics["sample_top1"]:.2f} %.
defaults:
  - override /bit_set: {values["bit_set"]} # the set B
# Hyperparameters of LampQ's metric.
lampq:
  # mu of the paper, as a fraction of the blocks.
  mu: {values["lampq.mu"]}
  # beta of the paper, in bits.
  beta: {values["lampq.beta"]}
  # gamma of the paper.
  gamma: {values["lampq.gamma"]}
"""
    write_text(path, text)
    return path


def _record(row: Row) -> dict[str, Any]:
    metrics = row.run.metrics
    record: dict[str, Any] = {axis: row.cell.overrides.get(axis) for axis in AXES}
    for name in ("sample_top1", "sample_loss", "sample_images", "evaluations", "seconds_total", "seconds_cold", "seed"):
        record[name] = metrics[name]
    return {**record, "plan": row.run.plan.key(), "fingerprint": row.run.fingerprint}
