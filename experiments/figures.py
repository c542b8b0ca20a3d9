"""Figures, drawn from runs: the paper's 1, 5, 6, 7 and 8 in its arrangement, and our own."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lampq.launch.cells import NOT_AVAILABLE
from lampq.plan.bit_plan import BitPlan
from lampq.plan.sites import LAYER_TYPES
from lampq.report.bit_allocation import bit_colours, draw_bits
from lampq.report.sensitivity import draw_unit
from lampq.report.style import PALETTE, line, panels, save
from lampq.runs.record import read_sensitivity
from lampq.storage.atomic_write import csv_text

from . import methods, metrics, paper
from .accuracy_table import AccuracyLayout
from .footnotes import OVERLAP, footnote, overlaps
from .frame import first, latest, plain, widest, with_gain
from .method_table import COST, SECONDS, WHERE, state_of

Numbers = list[dict[str, Any]]


@dataclass(frozen=True)
class Drawing:
    """A figure that was drawn, or why it was not.

    Attributes:
        name, title: of the figure.
        figure: matplotlib's; None where nothing was measured.
        remarks: what the reader should know.
        numbers: the numbers in it.
    """

    name: str
    title: str
    figure: Any | None
    remarks: list[str]
    numbers: Numbers

    def write(self, folder: Path, keep: bool = False) -> list[Path]:
        """Write the figure as PNG and PDF and the numbers in it as CSV; nothing where nothing was measured.

        Args:
            keep: leave a figure that is there as it is where its numbers have not changed: drawing takes a second.

        Returns:
            The files, the PNG first.
        """
        if self.figure is None:
            return []
        files = [folder / f"{self.name}.{ending}" for ending in ("png", "pdf", "csv")]
        there = keep and all(file.is_file() for file in files)
        if not (there and files[-1].read_bytes() == csv_text(self.numbers).encode()):
            save(self.figure, files[0], self.numbers)
        return files


def figure1(rows: pd.DataFrame) -> Drawing:
    """Accuracy with a single block, module or layer at 1 bit."""
    title = "Figure 1: accuracy when a single component has 1 bit, the rest in full precision"
    row = latest(rows)
    if row is None:
        return _nothing(rows, "figure1", title)
    measurements = read_sensitivity(row.run.folder)
    figure, axes = panels(3, share_y=True)
    for each, unit, letter in zip(axes, ("blocks", "modules", "layers"), "aab", strict=True):
        draw_unit(each, measurements, unit)
        each.set_title(f"({letter}) {unit}", fontsize=10)
    axes[0].set_ylabel("top-1 on D (%)", fontsize=9)
    return _drawing(figure, "figure1", title, [row], _labelled(row, measurements))


def figure6(rows: pd.DataFrame) -> Drawing:
    """Accuracy drop of single layers at 1 bit, with and without a 2-bit first block."""
    title = "Figure 6: accuracy drop by 1-bit quantization of single qkv or fc1 layers"
    newest = latest(rows)
    if newest is None:
        return _nothing(rows, "figure6", title)
    done = rows[rows.run.notna() & (rows.model == newest.model)]
    done = done.assign(context=[asked["sensitivity.first_block_bits"] for asked in done.asked])
    chosen = {context: first(widest(group)) for context, group in reversed(list(done.groupby("context")))}
    figure, axes = panels(2, share_y=True)
    numbers: Numbers = []
    for index, (context, row) in enumerate(chosen.items()):
        measurements = read_sensitivity(row.run.folder)
        label = "full precision (32 bits)" if context == "null" else f"first block at {context} bits"
        numbers += [{"first_block_bits": context, **m} for m in _labelled(row, measurements)]
        for each, layer_type in zip(axes, ("qkv", "fc1"), strict=True):
            mine = [m for m in measurements if m["type"] == layer_type]
            errors = [m["top1_drop_standard_error"] for m in mine]
            line(each, [m["block"] for m in mine], [m["top1_drop"] for m in mine], label, index, errors)
    for each, letter, layer_type in zip(axes, "ab", ("qkv", "fc1"), strict=True):
        each.set_title(f"({letter}) {layer_type}", fontsize=10)
        each.set_xlabel("block", fontsize=9)
        each.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("drop of top-1 on D (points)", fontsize=9)
    return _drawing(figure, "figure6", title, list(chosen.values()), numbers)


def figure8(rows: pd.DataFrame) -> Drawing:
    """Accuracy with a single layer at 1 bit, a panel a model."""
    title = "Figure 8: accuracy when a single layer has 1 bit, the rest in full precision"
    chosen = [first(widest(group)) for _, group in rows[rows.run.notna()].groupby("model", sort=False)]
    if not chosen:
        return _nothing(rows, "figure8", title)
    figure, axes = panels(len(chosen))
    numbers: Numbers = []
    for each, letter, row in zip(axes, "abcdefgh", chosen, strict=False):
        measurements = read_sensitivity(row.run.folder)
        draw_unit(each, measurements, "layers")
        each.set_title(f"({letter}) {paper.MODELS.get(row.model, row.model)}", fontsize=10)
        numbers += _labelled(row, measurements)
    axes[0].set_ylabel("top-1 on D (%)", fontsize=9)
    return _drawing(figure, "figure8", title, chosen, numbers)


def figure5(rows: pd.DataFrame) -> Drawing:
    """The metric of every layer: VT-PTQ's where it was run, the Fisher trace before and after type scaling."""
    title = "Figure 5: values of the metric by VT-PTQ and by LampQ"
    lampq = latest(rows, "lampq")
    if lampq is None:
        return _nothing(rows, "figure5", title)
    plan = lampq.run.plan
    layers = [site for site in plan.sites if site.allocated]
    traces = plan.origin["fisher_traces"]
    shown: list[tuple[str, dict[str, float]]] = [
        ("LampQ without type scaling: tr(F)", {s.name: traces[s.name] for s in layers}),
        ("(b) LampQ: Ω = α tr(F)", {s.name: s.score for s in layers}),
    ]
    vt_ptq = latest(rows, "vt_ptq")
    if vt_ptq is not None:
        scores = {s.name: s.score for s in vt_ptq.run.plan.sites if s.score is not None}
        shown.insert(0, ("(a) VT-PTQ", scores))
    figure, axes = panels(len(shown))
    numbers: Numbers = []
    for each, (name, values) in zip(axes, shown, strict=True):
        # The layers of a module share VT-PTQ's value: one line for both.
        by_module = {"qkv": "MSA", "fc1": "MLP"} if "VT-PTQ" in name else {t: t for t in LAYER_TYPES}
        for index, (layer_type, label) in enumerate(by_module.items()):
            mine = [s for s in layers if s.type == layer_type and s.name in values]
            line(each, [s.block for s in mine], [values[s.name] for s in mine], label, index)
            numbers += [{"metric": name, "component": label, "block": s.block, "value": values[s.name]} for s in mine]
        each.set_yscale("log")
        each.set_title(name, fontsize=10)
        each.set_xlabel("block", fontsize=9)
        each.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("metric (logarithmic)", fontsize=9)
    missing = [] if vt_ptq is not None else [f"Panel (a), VT-PTQ: {_state(rows, 'vt_ptq')}."]
    return _drawing(figure, "figure5", title, [lampq], numbers, missing + _drops(plan))


def _drops(plan: BitPlan) -> list[str]:
    """A line on A_t, where a plan tells its error over blocks and images (older ones count images alone)."""
    scaling = plan.origin.get("type_scaling") or {}
    if "drop_standard_error_over_images" not in scaling:
        return []
    errors = {name: "?" if e is None else f"{e:.2g}" for name, e in scaling["drop_standard_error"].items()}
    each = ", ".join(f"{name} {drop:.3g} ± {errors[name]}" for name, drop in scaling["drop"].items())
    unit = "nats of loss" if scaling["measure"] == "loss" else "share of images"
    return [f"A_t ({unit}), its standard error over the sampled blocks and the images of D: {each}."]


def figure7(rows: pd.DataFrame) -> Drawing:
    """Bits of every layer, a panel a method."""
    title = "Figure 7: bits of each layer at 3 bits on average"
    found = {m: row for m in ("vt_ptq", "lampq") if (row := latest(rows, m)) is not None}
    if not found:
        return _nothing(rows, "figure7", title)
    depth = max(len({s.block for s in row.run.plan.sites if s.allocated}) for row in found.values())
    figure, axes = panels(len(found), width=1.1 + 0.36 * depth, height=2.3)
    numbers: Numbers = []
    colours: dict = {}
    for each, (method, row) in zip(axes, found.items(), strict=True):
        each.grid(False)
        colours |= bit_colours(row.run.plan)
        draw_bits(each, row.run.plan)
        letter = {"vt_ptq": "a", "lampq": "b"}[method]
        average = row.run.metrics["average_weight_bits"]
        each.set_title(f"({letter}) {paper.METHODS[method]}, {average:.2f} bits on average", fontsize=10)
        numbers += [
            {"method": method, "layer": s.name, "type": s.type, "block": s.block, "bits": s.weight_bits}
            for s in row.run.plan.sites
            if s.allocated
        ]
    missing = [f"{paper.METHODS[m]}: {_state(rows, m)}." for m in ("vt_ptq", "lampq") if m not in found]
    return _drawing(figure, "figure7", title, list(found.values()), numbers, missing)


def pareto(rows: pd.DataFrame) -> Drawing:
    """Accuracy against average weight bits, a line an allocator: on validation images, and on D."""
    title = "Accuracy against average weight bits, a line an allocator"
    chosen = latest(rows)
    if chosen is None:
        return _nothing(rows, "pareto", title)
    mine = with_gain(rows[rows.method.notna() & (rows.model == chosen.model)])
    drawn = widest(mine, ["method", "bits"]).drop_duplicates(["method", "bits"])
    drawn = drawn[drawn.top1.notna()].sort_values("average_weight_bits", kind="stable")
    if drawn.empty:
        return _nothing(rows, "pareto", title)
    drawn = pd.concat([drawn[drawn.method == method] for method in methods.in_order(set(drawn.method))])
    figure, axes = panels(2, width=4.8, height=3.6)
    for index, (method, group) in enumerate(drawn.groupby("method", sort=False)):
        searched = group[group.sample_top1.notna() & (group.allocator != "uniform")]
        for each, points, name in ((axes[0], group, "top1"), (axes[1], searched, "sample_top1")):
            if len(points):
                columns = ("average_weight_bits", name, f"{name}_standard_error")
                bits, top1, error = (points[column].astype(float) for column in columns)
                line(each, bits, top1, methods.label(method), index, error)
    full = first(widest(drawn)).top1_full_precision
    axes[0].axhline(full, color="0.5", linestyle="--", linewidth=1, label="full precision")
    for each, letter, where in zip(axes, "ab", ("validation images", "D, which the searches saw"), strict=True):
        each.set_title(f"({letter}) {where}", fontsize=10)
        each.set_xlabel("average weight bits of the 4N layers", fontsize=9)
    axes[0].set_ylabel("top-1 (%)", fontsize=9)
    axes[0].legend(frameon=False, fontsize=7)
    named = drawn.assign(method=[methods.label(method) for method in drawn.method], **{"w/a": drawn.bits})
    named["model"] = [paper.MODELS.get(model, model) for model in drawn.model]
    columns = ["method", "w/a", "model", "state", *AccuracyLayout.figures, *COST, *SECONDS, *WHERE]
    numbers = plain(named[[column for column in columns if column in named]])
    absent = mine[mine.state == NOT_AVAILABLE].drop_duplicates("method")
    lacking = [f"{methods.label(row.method)}: not available ({row.reason})." for row in absent.itertuples()]
    lacking += [
        f"{methods.label(row.method)} at {row.bits} bits: {row.state}."
        for row in mine[mine.run.isna() & (mine.state != NOT_AVAILABLE)].itertuples()
    ]
    remarks = [
        "Error bars: standard errors over images; what two lines share the same images for compares more closely "
        "(pareto.csv has differences to equal bits, paired by image). Full precision is measured on the same images."
    ]
    return _drawing(figure, "pareto", title, drawn.itertuples(), numbers, remarks + lacking)


def metrics_figure(rows: pd.DataFrame) -> Drawing:
    """Every allocator's metric of each layer, and what each layer costs alone: a panel each, a line a layer type."""
    title = "Metrics of each layer, and what each costs alone"
    found = metrics.gathered(rows)
    if found is None:
        return _nothing(rows, "metrics", title)
    shown = [*found.metrics, *found.costs]
    figure, axes = panels(len(shown), width=3.2, height=2.5, columns=4)
    numbers: Numbers = []
    for each, metric in zip(axes, shown, strict=True):
        for index, layer_type in enumerate(LAYER_TYPES):
            mine = [s for s in found.layers if s.type == layer_type and s.name in metric.values]
            values = [metric.values[s.name] for s in mine]
            if not metric.errors:
                values = [value if value > 0 else math.nan for value in values]
            errors = [metric.errors[s.name] for s in mine] if metric.errors else None
            line(each, [s.block for s in mine], values, layer_type, index, errors)
            numbers += [
                {
                    "metric": metric.name,
                    "layer": s.name,
                    "type": s.type,
                    "block": s.block,
                    "value": metric.values[s.name],
                    "standard_error": metric.errors.get(s.name),
                }
                for s in mine
            ]
        if not metric.errors:
            each.set_yscale("log")
        each.set_title(metric.name, fontsize=9)
        each.set_xlabel("block", fontsize=8)
    axes[0].legend(frameon=False, fontsize=7)
    remarks = ["Metrics are on logarithmic axes, on which values not above zero are not shown."]
    return _drawing(figure, "metrics", title, found.rows, numbers, remarks)


FIGURES: dict[str, Callable[[pd.DataFrame], Drawing]] = {
    "figure1": figure1,
    "figure5": figure5,
    "figure6": figure6,
    "figure7": figure7,
    "figure8": figure8,
    "pareto": pareto,
    "metrics": metrics_figure,
}
"""Name of the experiment -> what draws it from the frame's rows of it."""


def _labelled(row: Any, measurements: Numbers) -> Numbers:
    return [{"model": paper.MODELS.get(row.model, row.model), **m} for m in measurements]


def _drawing(
    figure: Any, name: str, title: str, rows: Iterable[Any], numbers: Numbers, told: Sequence[str] = ()
) -> Drawing:
    """A figure with its remarks: what is `told`, then a line on each run that is in it."""
    rows = list(rows)
    models = dict.fromkeys(paper.MODELS.get(row.model, row.model) for row in rows)
    figure.suptitle(", ".join(models), fontsize=10, x=0.01, ha="left", color=PALETTE[-1])
    remarks = list(told)
    for row in rows:
        text = f"D of {row.sample_images} training images" if pd.isna(row.images) else footnote(row.run)
        text = "; ".join(part for part in (text, OVERLAP if overlaps(row.run) else "") if part)
        remarks.append(
            f"`{row.fingerprint}`: {text + '; ' if text else ''}`{row.command}`; commit {row.commit}, {row.device}, "
            f"{row.started}"
        )
    return Drawing(name, title, figure, remarks, numbers)


def _nothing(rows: pd.DataFrame, name: str, title: str) -> Drawing:
    return Drawing(name, title, None, [f"Nothing is measured yet: {state_of(rows.state)}."], [])


def _state(rows: pd.DataFrame, method: str) -> str:
    return state_of(rows.state[rows.method == method])
