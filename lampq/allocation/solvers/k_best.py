"""The best plans of an allocation problem, not only the first: a dynamic program that keeps many."""

import heapq
import math
from dataclasses import dataclass, replace

import numpy as np

from lampq.allocation.solvers.allocation_problem import AllocationProblem
from lampq.allocation.solvers.relaxation import Relaxation

TRIAL_WIDTH = 512
"""Partial plans kept a layer in the first, inexact round, at least; it only serves to find plans to prune with."""


def k_best_plans(problem: AllocationProblem, count: int) -> list[list[int]]:
    """The `count` plans of least cost within the budget, best first; fewer where there are fewer.

    Of the partial plans over the layers so far, those are kept that fewer than `count` others match or beat in both
    units and cost, and that can still become one of the best: a first round that keeps only the most promising says
    what the last of the best costs at most. Of equal costs the plan with fewer units, then the one found first, comes
    first.

    Args:
        problem: costs and sizes; see `AllocationProblem`.
        count: how many.

    Returns:
        Columns of the chosen bit-widths, layer by layer, of each plan.
    """
    backwards = {name: getattr(problem, name)[::-1] for name in ("costs", "excess_costs", "units")}
    rest = Relaxation(replace(problem, **backwards))
    width = max(TRIAL_WIDTH, 2 * count)
    found = _plans(problem, rest, count, math.inf, width)
    if len(found) == count:
        ceiling = sum(problem.excess_costs[i, k] for i, k in enumerate(found[-1]))
        found = _plans(problem, rest, count, float(ceiling) * (1 + 1e-9), None)
    return found


@dataclass(frozen=True)
class _Step:
    """Partial plans after a layer, by units, then cost: the column of the layer, and the partial plan before."""

    columns: np.ndarray
    before: np.ndarray


def _plans(
    problem: AllocationProblem, rest: Relaxation, count: int, ceiling: float, width: int | None
) -> list[list[int]]:
    """The best plans among those of at most `ceiling` excess cost; inexact where more than `width` would be kept."""
    layers, columns = problem.costs.shape
    units, costs = np.zeros(1, dtype=np.int64), np.zeros(1)
    steps: list[_Step] = []
    for layer in range(layers):
        column, before = (part.ravel() for part in np.indices((columns, len(units))))
        new_units = units[before] + problem.units[layer, column]
        new_costs = costs[before] + problem.excess_costs[layer, column]
        keep = np.flatnonzero((new_units <= problem.room) & np.isfinite(new_costs))
        bounds = new_costs[keep] + rest.lower_bound(layers - layer - 1, problem.room - new_units[keep])
        keep, bounds = keep[bounds <= ceiling], bounds[bounds <= ceiling]
        if width is not None and len(keep) > width:
            keep = np.sort(keep[np.argsort(bounds, kind="stable")[:width]])
        keep = keep[np.lexsort((new_costs[keep], new_units[keep]))]
        keep = keep[_not_beaten(new_costs[keep], count)]
        units, costs = new_units[keep], new_costs[keep]
        steps.append(_Step(column[keep], before[keep]))
    plans = []
    for at in np.argsort(costs, kind="stable")[:count]:
        plan = []
        for step in reversed(steps):
            plan.append(int(step.columns[at]))
            at = step.before[at]
        plans.append(plan[::-1])
    return plans


def _not_beaten(costs: np.ndarray, count: int) -> np.ndarray:
    """Where fewer than `count` of the costs before are as low: positions."""
    lowest: list[float] = []  # the `count` lowest so far, negative, the highest of them first
    kept = []
    for position, cost in enumerate(costs.tolist()):
        if len(lowest) < count:
            heapq.heappush(lowest, -cost)
        elif cost < -lowest[0]:
            heapq.heapreplace(lowest, -cost)
        else:
            continue
        kept.append(position)
    return np.array(kept, dtype=np.int64)
