"""The grid of table 8: which point is best on D, what the grid cost, and the winner as a preset."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lampq.report.summary import duration
from lampq.report.table import Table
from lampq.storage.atomic_write import write_text

from .frame import first

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
        rows: its points with their place on the axes, the best on D first: accuracy, then mean loss, then the order of
            the overrides.
    """

    model: str
    weight_bits: float
    activation_bits: float
    rows: pd.DataFrame

    @property
    def name(self) -> str:
        """``deit_tiny_w3``, or ``deit_tiny_w4a8`` where the targets differ."""
        differ = self.weight_bits != self.activation_bits
        model = re.sub(r"[^\w.-]", "_", self.model)  # it becomes the name of files
        return f"{model}_w{self.weight_bits:g}" + (f"a{self.activation_bits:g}" if differ else "")

    @property
    def best(self) -> Any:
        """The winner."""
        return first(self.rows)

    @property
    def target(self) -> str:
        """The target as on the command line."""
        if self.weight_bits == self.activation_bits:
            return f"bits={self.weight_bits:g}"
        return f"weight_bits={self.weight_bits:g} activation_bits={self.activation_bits:g}"


def searches(rows: pd.DataFrame) -> list[Search]:
    """The grids among the frame's rows, one a model and target; of several sizes of D, the largest.

    A run that several cells led to is one point; what names no place on the axes is none.
    """
    rows = rows.assign(**{axis: [asked.get(axis, "") for asked in rows.asked] for axis in AXES})
    placed = [all(re.fullmatch(r"[\w.]+", value) for value in values) for values in rows[list(AXES)].to_numpy()]
    points = rows[rows.sample_top1.notna() & pd.Series(placed, rows.index, bool)].drop_duplicates("fingerprint")
    found = []
    for (model, weight, activation), group in points.groupby(["model", "weight_bits", "activation_bits"], sort=False):
        kept = group[group.sample_images == group.sample_images.max()]
        ranked = kept.sort_values(["sample_top1", "sample_loss"], ascending=[False, True], kind="stable")
        found.append(Search(model, weight, activation, ranked))
    return found


def grid_table(search: Search) -> Table:
    """The best points on D, the spread over all of them, and what the grid cost beside one run."""
    rows = search.rows.assign(plan=[run.plan.key() for run in search.rows.run])
    spent = rows.seconds_total.sum()
    on_plans = rows.seconds_plans.sum() if "seconds_plans" in rows else 0.0
    cold, accuracies = (sorted(rows[name]) for name in ("seconds_cold", "sample_top1"))
    median = cold[len(cold) // 2]
    oldest = first(rows.sort_values("started", kind="stable"))
    shown = [*AXES, "sample_top1", "sample_loss", "evaluations"]
    body = [
        [str(place + 1), *axes, f"{top1:.2f}", f"{loss:.4f}", str(plans)]
        for place, (*axes, top1, loss, plans) in enumerate(rows[shown].head(SHOWN).itertuples(index=False))
    ]
    remarks = [
        f"{len(rows)} different points of the {PRINTED_COMBINATIONS} combinations of table 8 (the paper prints the set "
        f"{{2,3,4,5}} twice), which end in {rows.plan.nunique()} different plans. Accuracy on D from "
        f"{accuracies[0]:.2f} to {accuracies[-1]:.2f} %, median {accuracies[len(accuracies) // 2]:.2f} %. Validation "
        "images: not looked at.",
        f"Time: {duration(spent)} for all points together, of which {duration(on_plans)} went into measuring plans "
        f"that no point before had met, on D and layer by layer; the rest is {(spent - on_plans) / median:.1f} times "
        f"one LampQ run with nothing on disk ({duration(cold[0])} to {duration(cold[-1])}, median {duration(median)}). "
        f"Without what they share the points would have taken {duration(sum(cold))}, {sum(cold) / spent:.1f} times as "
        "long.",
        f"Device of the first point: {oldest.processor}, {oldest.device}, {oldest.threads} threads, commit "
        f"{oldest.commit}.",
        f"The winner as a preset: `python run.py --config-dir {oldest.run.results / 'presets'} lampq={search.name} "
        f"model={search.model} {search.target}`.",
    ]
    header = ["rank", "μ", "bit set", "γ", "β", "top-1 on D (%)", "mean loss on D", "plans scored"]
    images = search.best.sample_images
    title = f"Table 8, searched: {search.model} at {search.weight_bits:g} bits, D of {images} images"
    told = (*shown[:-1], "sample_images", "evaluations", "seconds_total", "seconds_cold", "seed", "plan", "fingerprint")
    return Table(f"grid_{search.name}", title, header, body, rows[list(told)], remarks=remarks)


def write_preset(search: Search, results: Path) -> Path:
    """Write the winner as ``lampq=NAME`` for ``--config-dir results/presets``."""
    best = search.best
    values = best.asked
    path = results / "presets" / "lampq" / f"{search.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"""\
# @package _global_
# The best of the grid for {search.model} at {search.weight_bits:g} bits, run {best.fingerprint}.
# Top-1 on D: {best.sample_top1:.2f} %.
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
