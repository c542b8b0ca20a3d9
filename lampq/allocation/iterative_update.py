"""Error-based iterative bit update (idea I3; Algorithm 1, lines 13-26)."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from lampq.allocation.base import Search
from lampq.budgets import Budget
from lampq.layers import Site
from lampq.plan import BitPlan
from lampq.progress import progress
from lampq.quantized_model import QuantizedModel
from lampq.sensitivity.expected_error import cost_of_one_bit_less, gain_of_one_bit_more
from lampq.sensitivity.reconstruction_error import reconstruction_errors


@dataclass(frozen=True)
class Swap:
    """One step of the update: `up` gained a bit, `down` lost one.

    Attributes:
        gain: estimated reduction of reconstruction error of `up`.
        cost: estimated increase of reconstruction error of `down`.
        accuracy, loss: on D after the swap.
        accuracy_before: of the plan that it was tried on.
        accepted: whether the swapped plan was kept.
    """

    up: str
    down: str
    gain: float
    cost: float
    accuracy: float
    loss: float
    accuracy_before: float
    accepted: bool


def ranked_swaps(
    layers: list[Site],
    bits: dict[str, int],
    gains: dict[str, float],
    costs: dict[str, float],
    budget: Budget,
    literal: bool,
) -> list[tuple[Site, Site]]:
    """Pairs (up, down) that may be tried, the most promising first.

    Args:
        gains: estimated gain of one bit more, for layers that can have one.
        costs: estimated cost of one bit less, for layers that can lose one.
        literal: the paper's pair, highest gain with lowest cost, whatever it does to the average; else only pairs
            that keep the budget, by gain - cost.
    """
    candidates = set(budget.candidates)
    ups = [s for s in layers if bits[s.name] + 1 in candidates and s.name in gains]
    downs = [s for s in layers if bits[s.name] - 1 in candidates and s.name in costs]
    if literal:
        ups = sorted(ups, key=lambda s: -gains[s.name])
        downs = sorted(downs, key=lambda s: costs[s.name])
        return [(up, down) for up in ups[:1] for down in downs if down is not up][:1]
    room = budget.total([s.parameters for s in layers]) - sum(s.parameters * bits[s.name] for s in layers)
    pairs = [(up, down) for up in ups for down in downs if up is not down and up.parameters - down.parameters <= room]
    return sorted(pairs, key=lambda pair: -(gains[pair[0].name] - costs[pair[1].name]))


def iterative_update(
    plan: BitPlan,
    search: Search,
    budget: Budget,
    *,
    ratios: dict[int, float] | None,
    literal_swaps: bool,
    try_next_pairs: int,
    maximum_swaps: int,
    max_evaluations: int | None = None,
) -> tuple[BitPlan, list[dict]]:
    """Swap bits between two layers as long as accuracy on D (then the mean loss) improves.

    Args:
        plan: the initial assignment.
        ratios: expected ratios rho_B = E L^(B-1) / E L^(B) by B (Lemma 3), or None to measure L at one bit more and
            one bit less with the layers' real quantizers.
        literal_swaps: see `ranked_swaps`.
        try_next_pairs: how many further pairs are tried after one that failed (the paper: none).
        maximum_swaps: swaps after which the update stops in any case.
        max_evaluations: swapped plans that are scored on D at most, accepted or not; None is no limit.

    Returns:
        The last accepted plan, and the history of all swaps that were tried.
    """
    layers, sites = search.layers, search.adapter.sites
    quantized = QuantizedModel(search.adapter, search.bank)
    current, bits = plan, plan.layer_bits()
    search.evaluator.set_base(current)
    best = search.evaluator.score(current)
    visited, history, accepted = {current.key()}, [], 0
    bar = progress(description="iterative update", total=maximum_swaps, unit="swaps")
    while accepted < maximum_swaps:
        gains, costs = _estimates(current, search, budget, quantized, ratios)
        improved = False
        tried = 0
        for up, down in ranked_swaps(layers, bits, gains, costs, budget, literal_swaps):
            if tried > try_next_pairs or len(history) == max_evaluations:
                break
            swapped = {**bits, up.name: bits[up.name] + 1, down.name: bits[down.name] - 1}
            candidate = budget.plan(sites, swapped, plan.origin)
            if candidate.key() in visited:
                continue
            visited.add(candidate.key())
            tried += 1
            search.bank.calibrate(candidate)
            score = search.evaluator.score(candidate, keep=True)
            improved = score.better_than(best)
            gain, cost = gains[up.name], costs[down.name]
            after = score.accuracy, score.mean_loss
            swap = Swap(up.name, down.name, gain, cost, *after, best.accuracy, improved)
            history.append(asdict(swap))
            if improved:
                current, bits, best = candidate, swapped, score
                search.evaluator.set_base(current)
                break
        if not improved:
            break
        accepted += 1
        bar.update()
    bar.close()
    return current, history


def _estimates(
    plan: BitPlan, search: Search, budget: Budget, quantized: QuantizedModel, ratios: dict[int, float] | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Gain of one bit more and cost of one bit less, for the layers whose bit set allows it."""
    layers, bits, candidates = search.layers, plan.layer_bits(), set(budget.candidates)
    can_rise = {s.name: bits[s.name] + 1 in candidates for s in layers}
    can_fall = {s.name: bits[s.name] - 1 in candidates for s in layers}
    if ratios is not None:
        errors = _errors(plan, search, quantized, {})
        gains = {
            s.name: gain_of_one_bit_more(errors[s.name][0], bits[s.name], ratios) for s in layers if can_rise[s.name]
        }
        costs = {
            s.name: cost_of_one_bit_less(errors[s.name][0], bits[s.name], ratios) for s in layers if can_fall[s.name]
        }
        return gains, costs

    neighbours = {s.name: [bits[s.name] + 1] * can_rise[s.name] + [bits[s.name] - 1] * can_fall[s.name] for s in layers}
    search.bank.prepare([(s, value, budget.input_bits(value)) for s in layers for value in neighbours[s.name]])
    alternatives = {
        s.name: [search.bank.module(s, value, budget.input_bits(value)) for value in neighbours[s.name]] for s in layers
    }
    errors = _errors(plan, search, quantized, alternatives)
    gains = {s.name: errors[s.name][0] - errors[s.name][1] for s in layers if can_rise[s.name]}
    costs = {s.name: errors[s.name][-1] - errors[s.name][0] for s in layers if can_fall[s.name]}
    return gains, costs


def _errors(
    plan: BitPlan, search: Search, quantized: QuantizedModel, alternatives: dict[str, list[nn.Module]]
) -> dict[str, list[float]]:
    """Reconstruction errors of every layer under a plan, each plan's computed once."""
    key = {
        **search.bank.identity,
        "plan": plan.key(),
        "alternatives": {name: len(modules) for name, modules in alternatives.items()},
    }

    def compute() -> dict[str, Tensor]:
        adapter = quantized.apply(plan).adapter
        images = search.task.calibration_images
        errors = reconstruction_errors(adapter, search.adapter, search.layers, images, alternatives)
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in errors.items()}

    stored = search.store.fetch("reconstruction_errors", key, compute)
    return {name: values.tolist() for name, values in stored.items()}
