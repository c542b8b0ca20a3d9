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


def solve_dynamic_program(problem: AllocationProblem) -> Allocation:
    """Choose the bit-width of every layer: least total cost within the budget, exactly.

    Solves the paper's ``argmin sum_i Omega_i^(B_i)  s.t.  sum_i c_i B_i <= b_t sum_i c_i`` (section Iterative Bit
    Update, Step 1; Algorithm 1, line 11). Of all plans within 1e-6 (relative) of the optimum it takes the one that
    gives the first layer the most bits, among these the second layer, and so on.
    """
    choice = optimal_plan(problem)
    return Allocation(problem.bits_of(choice), problem.objective(choice), "dynamic program", 0.0)


def optimal_plan(problem: AllocationProblem) -> list[int]:
    """Column of each layer in the best plan, ties resolved as `solve_dynamic_program` says."""
    relaxation = Relaxation(problem)
    # The greedy plan's cost prunes the first round, whose plan prunes the exact round.
    ceiling = _excess(problem, relaxation.greedy_plan)
    base = float(problem.costs.min(1).sum())
    trial = _fronts(problem, relaxation, ceiling + _slack(ceiling, base), TRIAL_WIDTH)
    if len(trial[0][1]):
        ceiling = min(ceiling, float(trial[0][1][-1]))
    fronts = _fronts(problem, relaxation, ceiling + _slack(ceiling, base), None)
    optimum = float(fronts[0][1][-1])
    limit = optimum + _slack(optimum, base)

    choice, room, spent = [], problem.room, 0.0
    for layer in range(len(problem.costs)):
        units, costs = fronts[layer + 1]
        for k in reversed(range(len(problem.bits))):
            left = room - int(problem.units[layer, k])
            at = int(np.searchsorted(units, left, side="right")) - 1  # the cheapest rest that fits
            if left >= 0 and at >= 0 and spent + problem.excess_costs[layer, k] + costs[at] <= limit:
                break
        else:
            raise RuntimeError(f"the dynamic program lost its own optimum at layer {layer}")
        choice.append(k)
        room, spent = left, spent + float(problem.excess_costs[layer, k])
    return choice


def _fronts(
    problem: AllocationProblem, relaxation: Relaxation, limit: float, width: int | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For every i, the non-dominated ways to complete a plan from layer i on: (units ascending, costs descending).

    Ways that cannot be part of a plan of at most `limit` are dropped: the relaxation tells what the layers before i
    cost at least. With a `width`, only so many ways, those with the lowest bounds, survive a layer.
    """
    front = np.zeros(1, dtype=np.int64), np.zeros(1)
    fronts = [front]
    for layer in reversed(range(len(problem.costs))):
        units = np.add.outer(problem.units[layer], front[0]).ravel()
        costs = np.add.outer(problem.excess_costs[layer], front[1]).ravel()
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
        front = units[better], costs[better]
        fronts.append(front)
    return fronts[::-1]


def _slack(excess: float, base: float) -> float:
    """What counts as a tie; where negative costs cancel, at least what sums are rounded by."""
    return TIE * abs(excess + base) + 1e-9 * excess


def _excess(problem: AllocationProblem, choice: Sequence[int]) -> float:
    return float(sum(problem.excess_costs[i, k] for i, k in enumerate(choice)))
