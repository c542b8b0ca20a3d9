"""The exact optimum of the bit allocation problem, by a dynamic program over non-dominated partial plans."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lampq.allocation.solvers.allocation_problem import AllocationProblem
from lampq.allocation.solvers.relaxation import Relaxation

TIE = 1e-6
"""Plans whose costs differ by no more than this fraction of the optimum count as equally good."""

TRIAL_WIDTH = 256
"""Partial plans kept a layer in the first, inexact round, which only serves to find a good plan."""


@dataclass(frozen=True)
class Allocation:
    """What a solver chose.

    Attributes:
        bits: bit-width of each layer.
        objective: total cost of the plan, summed without rounding over the costs as given.
        solver: who found it, in words.
        gap: how far above the exact optimum the solver's own plan was, as a fraction of the optimum.
    """

    bits: list[int]
    objective: float
    solver: str
    gap: float


@dataclass(frozen=True)
class Near:
    """A trust region: plans that differ from one plan in few layers.

    Attributes:
        choice: column of each layer in that plan, which keeps the budget.
        changes: layers that may differ from it, at most.
    """

    choice: Sequence[int]
    changes: int

    def distance(self, choice: Sequence[int]) -> int:
        """In how many layers another plan differs."""
        return sum(mine != other for mine, other in zip(self.choice, choice, strict=True))


def solve_dynamic_program(problem: AllocationProblem) -> Allocation:
    """Choose the bit-width of every layer: least total cost within the budget, exactly.

    Solves the paper's ``argmin sum_i Omega_i^(B_i)  s.t.  sum_i c_i B_i <= b_t sum_i c_i`` (section Iterative Bit
    Update, Step 1; Algorithm 1, line 11). Of all plans within 1e-6 (relative) of the optimum it takes the one that
    gives the first layer the most bits, among these the second layer, and so on.
    """
    choice = optimal_plan(problem)
    return Allocation(problem.bits_of(choice), problem.objective(choice), "dynamic program", 0.0)


def optimal_plan(problem: AllocationProblem, near: Near | None = None) -> list[int]:
    """Column of each layer in the best plan, ties resolved as `solve_dynamic_program` says.

    Args:
        near: of the plans in this trust region; None: of all.
    """
    relaxation = Relaxation(problem)
    # A plan that is known prunes the first round, whose plan prunes the exact round.
    ceiling = _excess(problem, relaxation.greedy_plan if near is None else near.choice)
    base = float(problem.costs.min(1).sum())
    trial = _fronts(problem, near, relaxation, ceiling + _slack(ceiling, base), TRIAL_WIDTH)
    if len(trial[0][-1][1]):
        ceiling = min(ceiling, float(trial[0][-1][1][-1]))
    fronts = _fronts(problem, near, relaxation, ceiling + _slack(ceiling, base), None)
    optimum = float(fronts[0][-1][1][-1])
    limit = optimum + _slack(optimum, base)

    choice, room, spent, level = [], problem.room, 0.0, len(fronts[0]) - 1
    for layer in range(len(problem.costs)):
        for k in reversed(range(len(problem.bits))):
            left, below = room - int(problem.units[layer, k]), level - _changed(near, layer, k)
            if left < 0 or below < 0:
                continue
            units, costs = fronts[layer + 1][below]
            at = int(np.searchsorted(units, left, side="right")) - 1  # the cheapest rest that fits
            if at >= 0 and spent + problem.excess_costs[layer, k] + costs[at] <= limit:
                break
        else:
            raise RuntimeError(f"the dynamic program lost its own optimum at layer {layer}")
        choice.append(k)
        room, spent, level = left, spent + float(problem.excess_costs[layer, k]), below
    return choice


Front = tuple[np.ndarray, np.ndarray]
"""Ways of which none is better in both: units ascending, costs descending."""


def _fronts(
    problem: AllocationProblem, near: Near | None, relaxation: Relaxation, limit: float, width: int | None
) -> list[list[Front]]:
    """For every i, the non-dominated ways to complete a plan from layer i on; with a trust region, for every number of
    changes from there on, at most, beginning with none.

    Ways that cannot be part of a plan of at most `limit` are dropped: the relaxation tells what the layers before i
    cost at least. With a `width`, only so many ways, those with the lowest bounds, survive a layer.
    """
    levels = [(np.zeros(1, dtype=np.int64), np.zeros(1))] * (1 if near is None else near.changes + 1)
    fronts = [levels]
    for layer in reversed(range(len(problem.costs))):
        levels = [_front(problem, near, relaxation, limit, width, layer, levels, level) for level in range(len(levels))]
        fronts.append(levels)
    return fronts[::-1]


def _front(
    problem: AllocationProblem,
    near: Near | None,
    relaxation: Relaxation,
    limit: float,
    width: int | None,
    layer: int,
    after: list[Front],
    level: int,
) -> Front:
    """The ways from a layer on, given those behind it; see `_fronts`."""
    ways = [(k, after[level - _changed(near, layer, k)]) for k in range(len(problem.bits))]
    ways = [(k, way) for k, way in ways if level >= _changed(near, layer, k)]
    units = np.concatenate([problem.units[layer, k] + way[0] for k, way in ways])
    costs = np.concatenate([problem.excess_costs[layer, k] + way[1] for k, way in ways])
    fits = np.flatnonzero(units <= problem.room)
    units, costs = units[fits], costs[fits]
    bounds = costs + relaxation.lower_bound(layer, problem.room - units)
    keep = np.flatnonzero(bounds <= limit)
    if width is not None and len(keep) > width:
        keep = keep[np.argpartition(bounds[keep], width)[:width]]
    units, costs = units[keep], costs[keep]
    order = np.lexsort((costs, units))
    units, costs = units[order], costs[order]
    cheapest_before = np.minimum.accumulate(np.concatenate([[np.inf], costs]))[:-1]
    better = costs < cheapest_before
    return units[better], costs[better]


def _changed(near: Near | None, layer: int, column: int) -> int:
    """1 for a column that counts as a change, else 0."""
    return 0 if near is None else int(near.choice[layer] != column)


def _slack(excess: float, base: float) -> float:
    """What counts as a tie; where negative costs cancel, at least what sums are rounded by."""
    return TIE * abs(excess + base) + 1e-9 * excess


def _excess(problem: AllocationProblem, choice: Sequence[int]) -> float:
    return float(sum(problem.excess_costs[i, k] for i, k in enumerate(choice)))
