"""Why each layer got its bits, in words that follow from the plan's own numbers."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lampq.allocation.stored_scores import StoredScores, stored_scores
from lampq.errors import LampQError
from lampq.limits import did_you_mean
from lampq.plan.bit_plan import BitPlan, SitePlan
from lampq.plan.budget import FULL_PRECISION_BITS
from lampq.plan.groups import Group
from lampq.report.bit_allocation import main_bits
from lampq.report.summary import cost_lines
from lampq.storage.atomic_write import write_rows

WIDTH = 120
"""Columns of the text."""
REFUSED_SHOWN = 3
"""Refused swaps of one layer that its line names; the list below the table has all."""
JUDGED = {"top1": "top-1", "ap": "AP of each image"}
"""What a search has looked at on D, in words (`Task.judged`)."""


@dataclass(frozen=True)
class Step:
    """A bit-width beside the one that a layer has.

    Attributes:
        bits: of the weights.
        change: cost of going there, in the allocator's own unit: what one bit less costs, or one bit more saves.
        per_bit: the same for each weight bit saved or spent.
    """

    bits: int
    change: float
    per_bit: float


@dataclass(frozen=True)
class Reason:
    """Why one layer has its bits.

    Attributes:
        site: the layer in the plan.
        initial_bits: what the solver gave it, before an update.
        score: the metric (Omega_i), or the score at its bits; None where nothing is scored.
        less, more: its next smaller and larger bit-width; None where there is none, or where nothing is scored.
        swaps: numbers of the swaps that touched it, from 1; negative where it lost a bit.
        why: in words.
    """

    site: SitePlan
    initial_bits: int | None
    score: float | None
    less: Step | None
    more: Step | None
    swaps: tuple[int, ...]
    why: str


def reasons(plan: BitPlan, scores: StoredScores | None) -> list[Reason]:
    """One reason a layer, in the order of execution.

    Args:
        scores: what the allocator weighed; None where nothing was.
    """
    price = scores.price() if scores else None
    steps = _steps(plan, scores) if scores else {}
    initial, swaps = plan.origin.get("initial_bits", {}), plan.origin.get("swaps", [])
    found = []
    for site in plan.chosen:
        touched = [(i if swap["up"] == site.name else -i) for i, swap in enumerate(swaps, 1) if _touches(swap, site)]
        score, less, more, bound = steps.get(site.name, (None, None, None, ""))
        before = initial.get(site.name, main_bits(site))
        if bound.endswith("pinned"):
            words = ""
        elif before != main_bits(site):
            words = f"{'fp' if before is None else before} at first, updated"
        else:
            words = "" if price is None else _verdict(less, more, price)
        words = "; ".join(part for part in (bound, words) if part)
        marks = _marks(touched, swaps)
        found.append(Reason(site, before, score, less, more, tuple(touched), f"{words} {marks}".strip()))
    return found


def explanation(
    plan: BitPlan, layer: str | None = None, name: str = "plan", csv: Path | None = None, costs: dict | None = None
) -> str:
    """The reasons of a plan as text, and as CSV where asked for.

    Args:
        layer: only this layer; None for all.
        name: what the text calls the plan.
        csv: file for the numbers.
        costs: what the plan costs (see `cost_lines`); None where it is not known.

    Raises:
        LampQError: there is no such layer.
    """
    layers, chosen = [s for s in plan.sites if s.allocated], plan.chosen
    if not layers:
        raise LampQError(f"{name}: has no layers whose bits are chosen; give the plan of a whole model")
    if layer is not None and layer not in {s.name for s in chosen}:
        near = did_you_mean(layer, [s.name for s in chosen])
        raise LampQError(f"{layer}: is none of the plan's {len(layers)} layers{near or '; see plan.layer_bits()'}")
    try:
        scores, without = stored_scores(plan), ""
        price, found = scores.price(), reasons(plan, scores)
    except LampQError as error:  # the bits can be told all the same
        scores, price, without = None, None, str(error).split("; ")[0]
        found = reasons(plan, None)
    if csv is not None:
        write_rows(csv, [_record(reason, price) for reason in found])
    spent = sum(s.parameters * (s.weight_bits or FULL_PRECISION_BITS) for s in layers)
    spent /= sum(s.parameters for s in layers)
    target = plan.budget.get("weight_bits")
    told = [
        name,
        f"allocator {plan.origin.get('allocator', 'unknown')}: {spent:.4f} bits on average"
        + (f", target {target:g}" if target is not None else "")
        + (f", bit set {plan.budget['candidates']}" if "candidates" in plan.budget else ""),
    ]
    told += cost_lines(costs)
    if "scored_with" in plan.origin:
        steps = plan.origin.get("search_steps")
        steps = "" if steps is None else f", {steps} steps a block (base_quantizer.search_steps)"
        told.append(f"plans were scored with: {plan.origin['scored_with']} (base_quantizer.search){steps}")
    if scores is None:
        told += textwrap.wrap(f"No costs to compare: {without}.", WIDTH)
    else:
        told += _legend(scores, price)
    rows = [_row(reason, scores is not None) for reason in found if layer in (None, reason.site.name)]
    header = _header(scores)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header) - 1)]
    told += [""]
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:-1], widths[1:], strict=True))]
        told.append(_fitted("  ".join([*cells, row[-1]])))
    told += _swap_lines(plan.origin.get("swaps", []), layer, chosen, _judged(plan))
    return "\n".join(line.rstrip() for line in told)


def _judged(plan: BitPlan) -> str:
    judged = plan.origin.get("judged", "top1")
    return JUDGED.get(judged, judged)


def _steps(plan: BitPlan, scores: StoredScores) -> dict[str, tuple[float, Step | None, Step | None, str]]:
    """By layer: its score, the steps down and up from its bits, and what binds it."""
    space = scores.space()
    types = {s.name: s.type for s in plan.sites}
    found = {}
    for group, row in zip(space.groups, scores.costs(space), strict=True):
        here = plan[group.layers[0].name].weight_bits
        costs = dict(zip(space.bits, row.tolist(), strict=True))
        less, more = (
            None if there is None else _step(costs, group, here, there)
            for there in ((group.next_less(here), group.next_more(here)) if here in group.bits else (None, None))
        )
        for site in group.layers:
            others = [types[other.name] for other in group.layers if other is not site]
            words = f"as {others[0]}" if len(others) == 1 else f"as {len(others)} others" if others else ""
            words = "; ".join(part for part in (words, "pinned" if group.pinned else "") if part)
            by_bits = None if scores.by_bits is None else scores.by_bits[site.name].get(here)
            found[site.name] = scores.omega[site.name] if scores.by_bits is None else by_bits, less, more, words
    return found


def _step(costs: dict[int, float], group: Group, here: int, there: int) -> Step:
    change = costs[min(here, there)] - costs[max(here, there)]
    return Step(there, change, change / abs(group.spending[here] - group.spending[there]))


def _verdict(less: Step | None, more: Step | None, price: float) -> str:
    """Where a layer stands with its steps on both sides of the price."""
    if more is not None and more.per_bit > price:
        return "one more would pay, no room"
    if less is not None and less.per_bit < price:
        return "one less would pay, room left"
    if less is None:
        return "the fewest: one more does not pay"
    if more is None:
        return "the most: the last one pays"
    return "the last one pays, one more does not"


def _touches(swap: dict[str, Any], site: SitePlan) -> bool:
    return site.name in (swap["up"], swap["down"])


def _marks(touched: list[int], swaps: list[dict[str, Any]]) -> str:
    """Swaps of a layer: those that were kept, then refused ones in brackets."""
    kept = [f"{i:+d}" for i in touched if swaps[abs(i) - 1]["accepted"]]
    refused = [f"{i:+d}" for i in touched if not swaps[abs(i) - 1]["accepted"]]
    shown = refused[:REFUSED_SHOWN] + ["…"] * (len(refused) > REFUSED_SHOWN)
    return " ".join(kept + ([f"({' '.join(shown)})"] if shown else []))


def _legend(scores: StoredScores, price: float) -> list[str]:
    """What the columns are, and the price that they compare with."""
    score = "Omega_i" if scores.by_bits is None else "score at its bits"
    formula = f"gamma^-B Omega_i, gamma {scores.gamma:g}" if scores.by_bits is None else "scores by bits, as stored"
    text = (
        f"Costs: {scores.metric}, {formula}. {score.capitalize()}; what one bit less costs and one bit more saves, in "
        "all and for each weight bit: the solver compares the latter with the price. Numbers: swaps of the update "
        "(+ gained a bit, - lost one), in brackets those that were refused."
    )
    return [f"price of the budget: {price:.3e} a weight bit, at which the solver stopped", *textwrap.wrap(text, WIDTH)]


def _header(scores: StoredScores | None) -> list[str]:
    if scores is None:
        return ["layer", "bits", "why"]
    score = "Omega" if scores.by_bits is None else "score"
    return ["layer", "bits", score, "less", "per bit", "more", "per bit", "why"]


def _row(reason: Reason, scored: bool) -> list[str]:
    bits = main_bits(reason.site)
    first = [reason.site.name, "fp" if bits is None else str(bits)]
    if not scored:
        return [*first, reason.why]
    numbers = ["-" if reason.score is None else f"{reason.score:.2e}"]
    for step in (reason.less, reason.more):
        numbers += ["-", "-"] if step is None else [f"{step.change:.2e}", f"{step.per_bit:.2e}"]
    return [*first, *numbers, reason.why]


def _swap_lines(swaps: list[dict[str, Any]], layer: str | None, layers: Sequence[SitePlan], accuracy: str) -> list[str]:
    """Every swap of the update (of one layer, if it is named), in order, with the accuracy on D (called so) or the loss
    before and after."""
    if not any(layer in (None, swap["up"], swap["down"]) for swap in swaps):
        return []
    width = max(len(s.name) for s in layers)
    losses = swaps[0]["accuracy"] is None  # of a detector that is judged by it
    measure, form = ("loss", "{:8.4f}") if losses else ("accuracy", "{:6.2f} %")
    lines, before = ["", f"swaps of the update ({'loss' if losses else accuracy} on D, before and after):"], None
    for number, swap in enumerate(swaps, 1):
        start = swap.get(f"{measure}_before", before)
        first, then = (
            "     ?" if value is None else form.format(value if losses else 100 * value)
            for value in (start, swap[measure])
        )
        verdict = "kept" if swap["accepted"] else "refused"
        lost = "" if swap["down"] is None else f"- {swap['down']}"
        names = f"+ {swap['up'].ljust(width)}  {lost.ljust(width + 2)}"
        if layer in (None, swap["up"], swap["down"]):
            lines.append(_fitted(f"{number:4d}  {names}  {first.removesuffix(' %')} -> {then}  {verdict}"))
        before = swap[measure] if swap["accepted"] else before
    return lines


def _fitted(line: str) -> str:
    return line if len(line.rstrip()) <= WIDTH else line[: WIDTH - 1] + "…"


def _record(reason: Reason, price: float | None) -> dict[str, Any]:
    site = reason.site
    record: dict[str, Any] = {"layer": site.name, "type": site.type, "block": site.block, "weights": site.parameters}
    record |= {"bits": main_bits(site), "solver_bits": reason.initial_bits, "score": reason.score}
    for name, step in (("less", reason.less), ("more", reason.more)):
        record[f"bits_{name}"] = step and step.bits
        record[f"change_{name}"] = step and step.change
        record[f"change_{name}_per_weight_bit"] = step and step.per_bit
    return record | {"price": price, "swaps": " ".join(f"{i:+d}" for i in reason.swaps), "why": reason.why}
