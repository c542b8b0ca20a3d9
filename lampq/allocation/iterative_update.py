"""Error-based iterative bit update (idea I3; Algorithm 1, lines 13-26)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from lampq.allocation.search_space import SearchSpace
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.plan.groups import Group
from lampq.progress import progress
from lampq.sensitivity.expected_error import cost_of_less_bits, gain_of_more_bits
from lampq.sensitivity.reconstruction_error import errors_at
from lampq.sensitivity.scores import Scores
from lampq.tasks.score import Accept
from lampq.workbench import Workbench


@dataclass(frozen=True)
class Swap:
    """One step of the update: `up` gained a bit, `down` lost one (or went to the next bits of the bit set).

    Attributes:
        up, down: names of the layers, or of the groups where layers are tied; no `down` where a bit was only added.
        gain: estimated reduction of reconstruction error (or of the score) of `up`.
        cost: estimated increase of reconstruction error (or of the score) of `down`.
        accuracy, loss: after the swap, on the images looked at; no accuracy where images are not right or wrong.
        accuracy_before: of the plan that it was tried on.
        accepted: whether the swapped plan was kept.
        images: how many images of D were looked at.
    """

    up: str
    down: str | None
    gain: float
    cost: float
    accuracy: float | None
    loss: float
    accuracy_before: float | None
    accepted: bool
    images: int


def ranked_swaps(
    groups: Sequence[Group],
    bits: dict[str, int],
    gains: dict[str, float],
    costs: dict[str, float],
    room: int,
    literal: bool,
    additions: bool = False,
) -> list[tuple[Group, Group | None]]:
    """Pairs (up, down) that may be tried, the most promising first.

    Args:
        groups: layers, those that are tied together.
        bits: of each group, by its name.
        gains: estimated gain of the next larger bit-width, for groups that can have one.
        costs: estimated cost of the next smaller bit-width, for groups that can have one.
        room: what the plan leaves of the budget, in its unit.
        literal: the paper's pair, highest gain with lowest cost, whatever it does to the average; else only pairs
            that keep the budget, by gain - cost.
        additions: besides pairs that keep the budget, single groups whose next bits fit in, by their gain alone.
    """
    ups = [g for g in groups if g.next_more(bits[g.name]) is not None and g.name in gains]
    downs = [g for g in groups if g.next_less(bits[g.name]) is not None and g.name in costs]
    if literal:
        ups = sorted(ups, key=lambda g: -gains[g.name])
        downs = sorted(downs, key=lambda g: costs[g.name])
        return [(up, down) for up in ups[:1] for down in downs if down is not up][:1]

    def spends(group: Group, other: int) -> int:
        return group.spending[other] - group.spending[bits[group.name]]

    more = {g.name: spends(g, g.next_more(bits[g.name])) for g in ups}
    less = {g.name: spends(g, g.next_less(bits[g.name])) for g in downs}

    def promise(pair: tuple[Group, Group | None]) -> float:
        up, down = pair
        return gains[up.name] - (0.0 if down is None else costs[down.name])

    pairs: list[tuple[Group, Group | None]] = [
        (up, down) for up in ups for down in downs if up is not down and more[up.name] + less[down.name] <= room
    ]
    if additions:
        pairs += [(up, None) for up in ups if more[up.name] <= room]
    return sorted(pairs, key=lambda pair: -promise(pair))


@dataclass(frozen=True)
class UpdateRules:
    """Which swaps are tried, and which plans are kept.

    Attributes:
        literal: see `ranked_swaps`.
        try_next_pairs: how many further pairs are tried after one that failed (the paper: none).
        maximum_swaps: swaps after which the update stops in any case.
        max_evaluations: swapped plans that are scored on D at most, accepted or not; None is no limit.
        accept, accept_factor: by which rule a plan is better (see `Score.improves_on`).
        additions: see `ranked_swaps`.
        stop_early: standard errors of the paired loss; a plan that is worse than the current one by more than these
            after a part of D is given up, and refused. None: every plan is scored on all of D.
    """

    literal: bool
    try_next_pairs: int
    maximum_swaps: int
    max_evaluations: int | None
    accept: Accept
    accept_factor: float
    additions: bool
    stop_early: float | None


Estimates = Callable[[SearchSpace, BitPlan], tuple[dict[str, float], dict[str, float]]]
"""What the next larger bit-width saves and what the next smaller one costs at a plan, by the names of the groups that
can have it."""


def iterative_update(
    plan: BitPlan, workbench: Workbench, budget: Budget, estimates: Estimates, rules: UpdateRules
) -> tuple[BitPlan, list[dict]]:
    """Swap bits between two layers as long as the plan improves on D.

    One layer goes to the next larger bit-width of the bit set, one to the next smaller: a bit each, where the set has
    no gaps. Tied layers move together and count as one, pinned ones stay.

    Args:
        plan: the initial assignment.
        estimates: `by_reconstruction`, as Algorithm 1 has it, or `by_scores`.

    Returns:
        The last accepted plan, and the history of all swaps that were tried.
    """
    space, sites = SearchSpace.open(workbench, budget), workbench.adapter.sites
    current, bits = plan, space.numbers_in(plan)
    workbench.evaluator.set_base(current)
    best = workbench.evaluator.score(current)
    visited, history, accepted = {current.key()}, [], 0
    bar = progress(description="iterative update", total=rules.maximum_swaps, unit="swaps")
    while accepted < rules.maximum_swaps:  # line 13
        # Lines 14 to 18: what a bit more saves and a bit less costs, of every layer.
        gains, costs = estimates(space, current)
        room = space.room - space.spent(bits)
        improved = False
        tried = 0
        pairs = ranked_swaps(space.groups, bits, gains, costs, room, rules.literal, rules.additions)  # lines 19 to 21
        for up, down in pairs:
            if tried > rules.try_next_pairs or len(history) == rules.max_evaluations:
                break
            swapped = {**bits, up.name: up.next_more(bits[up.name])}
            if down is not None:
                swapped[down.name] = down.next_less(bits[down.name])
            candidate = budget.plan(sites, space.layer_bits(list(swapped.values())), plan.origin)
            if candidate.key() in visited:
                continue
            visited.add(candidate.key())
            tried += 1
            workbench.bank.calibrate(candidate)
            if rules.stop_early is None:
                score = workbench.evaluator.score(candidate, keep=True)
            else:
                score = workbench.evaluator.score_unless_worse(candidate, current, rules.stop_early, keep=True)
            whole = len(score.loss) == len(best.loss)
            improved = whole and score.improves_on(best, rules.accept, rules.accept_factor)
            lost, cost = (None, 0.0) if down is None else (down.name, costs[down.name])
            after = score.accuracy, score.mean_loss
            swap = Swap(up.name, lost, gains[up.name], cost, *after, best.accuracy, improved, len(score.loss))
            history.append(asdict(swap))
            if improved:  # line 25
                current, bits, best = candidate, swapped, score
                workbench.evaluator.set_base(current)
                break
        if not improved:  # lines 22 to 24
            break
        accepted += 1
        bar.update()
    bar.close()
    return current, history


def by_scores(scores: Callable[[SearchSpace, BitPlan], Scores]) -> Estimates:
    """Differences of what each layer costs at each bit-width.

    Args:
        scores: gives these, by layer and by what may be chosen in the space, at a plan.
    """

    def estimates(space: SearchSpace, plan: BitPlan) -> tuple[dict[str, float], dict[str, float]]:
        return score_differences(space, space.numbers_in(plan), scores(space, plan))

    return estimates


def score_differences(
    space: SearchSpace, bits: dict[str, int], scores: Scores
) -> tuple[dict[str, float], dict[str, float]]:
    """What the next larger bit-width saves and the next smaller one adds, for the groups that can have it.

    Args:
        bits: of each group, by its name.
        scores: by layer and bits.
    """

    def difference(group: Group, high: int, low: int) -> float:
        return math.fsum(scores[s.name][low] - scores[s.name][high] for s in group.layers)

    gains, costs = {}, {}
    for group in space.groups:
        now = bits[group.name]
        more, less = group.next_more(now), group.next_less(now)
        if more is not None:
            gains[group.name] = difference(group, more, now)
        if less is not None:
            costs[group.name] = difference(group, now, less)
    return gains, costs


def by_reconstruction(workbench: Workbench, budget: Budget, ratios: dict[int, float] | None) -> Estimates:
    """From the reconstruction errors at the plan (lines 14 to 18); those of a group are the sums of its layers'.

    Args:
        ratios: expected ratios rho_B = E L^(B-1) / E L^(B) by B (Lemma 3), or None to measure L at one bit more and
            one bit less with the layers' real quantizers.
    """
    quantized = workbench.scored_model()

    def estimates(space: SearchSpace, plan: BitPlan) -> tuple[dict[str, float], dict[str, float]]:
        bits = space.numbers_in(plan)
        more = {g.name: g.next_more(bits[g.name]) for g in space.groups}
        less = {g.name: g.next_less(bits[g.name]) for g in space.groups}
        rising = [g for g in space.groups if more[g.name] is not None]
        falling = [g for g in space.groups if less[g.name] is not None]
        if ratios is not None:
            errors = errors_at(plan, workbench, budget, quantized, {})

            def gain(group: Group, name: str) -> float:
                return gain_of_more_bits(errors[name][0], bits[group.name], more[group.name], ratios)

            def cost(group: Group, name: str) -> float:
                return cost_of_less_bits(errors[name][0], bits[group.name], less[group.name], ratios)
        else:
            others = {g.name: [b for b in (more[g.name], less[g.name]) if b is not None] for g in space.groups}
            wanted = {s: [g.pairs[b] for b in others[g.name]] for g in space.groups for s in g.layers}
            errors = errors_at(plan, workbench, budget, quantized, wanted)

            def gain(group: Group, name: str) -> float:
                return errors[name][0] - errors[name][1]

            def cost(group: Group, name: str) -> float:
                return errors[name][-1] - errors[name][0]

        gains = {g.name: math.fsum(gain(g, s.name) for s in g.layers) for g in rising}
        costs = {g.name: math.fsum(cost(g, s.name) for s in g.layers) for g in falling}
        return gains, costs

    return estimates
