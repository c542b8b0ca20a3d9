"""Two plans beside each other: `python -m experiments diff PLAN PLAN`."""

import math
from pathlib import Path

from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan, SitePlan
from lampq.report.summary import size
from lampq.runs.finished_run import DamagedRun
from lampq.tasks.accuracies import ACCURACIES

from .measured import Run, mean_difference, paired_difference, precision_difference
from .plan_files import run_of

PRECISIONS = ("box_ap", "mask_ap")
"""Accuracies of a detector."""


def diff(one: Path, other: Path, left_out: list[str] | None = None) -> str:
    """Layers whose bits differ, what that costs, and, where both were run, how far their accuracies are apart.

    Args:
        left_out: gets a line on each run that is damaged; its plan is compared, its accuracy is not.

    Raises:
        LampQError: not plans, or plans of different models.
    """
    plans = [BitPlan.read(one), BitPlan.read(other)]
    sites = [[(s.name, s.type, s.parameters) for s in plan.sites] for plan in plans]
    if sites[0] != sites[1]:
        raise LampQError(f"{other}: a plan for another model than {one}; compare plans of one model")
    pairs = list(zip(plans[0].sites, plans[1].sites, strict=True))
    runs = []
    for path in (one, other):
        try:
            runs.append(run_of(path))
        except DamagedRun as error:
            runs.append(None)
            if left_out is not None:
                left_out.append(str(error))
    names = [plan.origin.get("allocator", "unknown") for plan in plans]
    told = [f"A: {names[0]}, {one}", f"B: {names[1]}, {other}", ""]
    told += _layers([pair for pair in pairs if pair[0].bits != pair[1].bits])
    told += ["", *_sizes(pairs, runs)]
    if all(runs):
        told += ["", *accuracies(*runs)]
    return "\n".join(line.rstrip() for line in told)


def _layers(differing: list[tuple[SitePlan, SitePlan]]) -> list[str]:
    """A line a site whose bits differ."""
    if not differing:
        return ["No bits differ."]
    width = max(len("layer"), *(len(a.name) for a, _ in differing))
    lines = [f"{'layer'.ljust(width)}  {'weights':>9}  {'A':>5}  {'B':>5}  {'B - A':>5}  {'weight bits, B - A':>18}"]
    for a, b in differing:
        change, spent = "", ""
        if a.weight_bits is not None and b.weight_bits is not None:
            more = b.weight_bits - a.weight_bits
            change, spent = f"{more:+d}", f"{a.parameters * more:+,}"
        lines.append(
            f"{a.name.ljust(width)}  {a.parameters:>9,}  {_bits(a):>5}  {_bits(b):>5}  {change:>5}  {spent:>18}"
        )
    allocated = sum(a.allocated for a, _ in differing)
    return [f"{allocated} of the allocated layers differ (weights/activations where these are not alike):", *lines]


def _bits(site: SitePlan) -> str:
    weight, activation = ("fp" if bits is None else str(bits) for bits in site.bits)
    if not site.parameters:
        return activation
    return weight if weight == activation else f"{weight}/{activation}"


def _sizes(pairs: list[tuple[SitePlan, SitePlan]], runs: list[Run | None]) -> list[str]:
    """Average bits of both plans, and bytes where they were run."""
    layers = [pair for pair in pairs if pair[0].allocated]
    total = sum(a.parameters for a, _ in layers)
    spent = [sum(pair[i].parameters * (pair[i].weight_bits or 32) for pair in layers) for i in (0, 1)]
    if not total:
        return ["average weight bits: no layer has weights"]
    lines = [
        f"average weight bits of the {len(layers)} layers: A {spent[0] / total:.4f}, B {spent[1] / total:.4f} "
        f"({(spent[1] - spent[0]) / total:+.4f}; {spent[1] - spent[0]:+,} bits)"
    ]
    if all(runs):
        packed = [run.metrics["packed_bytes"] for run in runs if "packed_bytes" in run.metrics]
        if len(packed) == 2:
            lines.append(f"packed: A {size(packed[0])}, B {size(packed[1])} ({packed[1] - packed[0]:+,} bytes)")
    return lines


def accuracies(one: Run, other: Run) -> list[str]:
    """Accuracies on the validation images and on D: of both, and the difference with its error, paired."""
    if all(set(PRECISIONS) <= set(run.metrics) for run in (one, other)):
        return [_precision(one, other, name) for name in PRECISIONS]
    lines = []
    for where, difference in (("validation images", _validated), ("D", _on_d)):
        lines += difference(where, one, other)
    return lines


def _validated(where: str, one: Run, other: Run) -> list[str]:
    if not all("top1" in run.metrics for run in (one, other)):
        return [f"top-1 on {where}: not measured in both runs"]
    text = _each(one, other, "top1", "top1_standard_error")
    try:
        ahead, error = paired_difference(other, one)
    except ValueError:
        return [f"top-1 on {where}: {text}; on different images, no difference"]
    difference = f"B - A {ahead:+.2f} ± {error:.2f} points, paired by image"
    return [f"top-1 on {one.metrics['images']:,} {where}: {text}; {difference}"]


def _precision(one: Run, other: Run, name: str) -> str:
    """A detector's average precision on the validation images."""
    told = f"{ACCURACIES[name]} on {one.metrics['images']:,} validation images: {_each(one, other, name)}"
    try:
        ahead, error = precision_difference(other, one, name)
    except ValueError as error:
        return f"{told}; no difference: {error}"
    return f"{told}; B - A {ahead:+.2f} ± {error:.2f} points, paired by draws of images"


def _on_d(where: str, one: Run, other: Run) -> list[str]:
    if not all("sample_top1" in run.metrics for run in (one, other)):
        return [f"top-1 on {where}: not measured in both runs"]
    text = _each(one, other, "sample_top1")
    if one.identity["images"].get("sample") != other.identity["images"].get("sample"):
        return [f"top-1 on {where}: {text}; on different images, no difference"]
    count = one.metrics["sample_images"]
    if one.sample_outcomes and other.sample_outcomes:
        error, kind = mean_difference(one.sample_outcomes, other.sample_outcomes)[1], "paired by image"
    else:
        shares = [run.metrics["sample_top1"] / 100 for run in (one, other)]
        error = 100 * math.sqrt(sum(p * (1 - p) for p in shares) / count)
        kind = "not paired: a run kept no outcomes on D"
    ahead = other.metrics["sample_top1"] - one.metrics["sample_top1"]
    return [f"top-1 on {where}, {count:,} images: {text}; B - A {ahead:+.2f} ± {error:.2f} points, {kind}"]


def _each(one: Run, other: Run, name: str, error: str | None = None) -> str:
    def of(run: Run) -> str:
        return f"{run.metrics[name]:.2f}" + (f" ± {run.metrics[error]:.2f}" if error else "") + " %"

    return f"A {of(one)}, B {of(other)}"
