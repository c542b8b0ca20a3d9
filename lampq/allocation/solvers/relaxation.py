"""The linear relaxation of the bit allocation problem, and the greedy plan that it suggests.

Exact solvers start from here: the relaxation bounds from below what is still to come, the greedy plan bounds the
optimum from above.
"""

from functools import cached_property
from itertools import pairwise

import numpy as np

from lampq.allocation.solvers.allocation_problem import AllocationProblem


class Relaxation:
    """The problem with mixtures of neighbouring bit-widths allowed: every layer's costs become convex.

    Its optimum spends the room on the steps that save most a unit, which makes it a lower bound (`lower_bound`), and
    doing the same with whole steps makes a plan (`greedy_plan`).
    """

    def __init__(self, problem: AllocationProblem) -> None:
        self._problem = problem
        self._start: list[int] = []
        steps = []  # saving a unit, layer, position in the layer, units, cost (negative), column after the step
        for layer in range(len(problem.costs)):
            hull = _lower_hull(problem.units[layer], problem.excess_costs[layer])
            self._start.append(hull[0])
            for position, (a, b) in enumerate(pairwise(hull)):
                units = int(problem.units[layer, b] - problem.units[layer, a])
                cost = float(problem.excess_costs[layer, b] - problem.excess_costs[layer, a])
                steps.append((cost / units, layer, position, units, cost, b))
        self._steps = sorted(steps)

    @cached_property
    def greedy_plan(self) -> list[int]:
        """A plan within the budget: the column of each layer."""
        choice, room, closed = list(self._start), self._problem.room, set()
        for _, layer, _, units, _, column in self._steps:
            if layer in closed:
                continue
            if units <= room:
                choice[layer], room = column, room - units
            else:
                closed.add(layer)
        return choice

    @property
    def price(self) -> float:
        """What one unit more of room would save: the budget's Lagrange multiplier; 0 where all steps fit."""
        room = self._problem.room
        for slope, _, _, units, _, _ in self._steps:
            if units > room:
                return -slope
            room -= units
        return 0.0

    def lower_bound(self, layers: int, room: np.ndarray) -> np.ndarray:
        """Least excess cost that the first `layers` layers can have within `room` units (any shape)."""
        steps = [(units, cost) for _, layer, _, units, cost, _ in self._steps if layer < layers]
        spent = np.concatenate([[0], np.cumsum([units for units, _ in steps], dtype=np.float64)])
        # Summed from the last step, after which nothing is left to save: no digits are lost by subtraction.
        saving = np.array([-cost for _, cost in steps], dtype=np.float64)
        return np.interp(room, spent, np.concatenate([np.cumsum(saving[::-1])[::-1], [0.0]]))


def _lower_hull(units: np.ndarray, costs: np.ndarray) -> list[int]:
    """Columns at the corners of the lower convex hull of a layer's (units, cost), down to its least cost."""
    hull: list[int] = []
    for k in np.lexsort((costs, units)):
        if not np.isfinite(costs[k]) or (hull and costs[k] >= costs[hull[-1]]):
            continue
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            # b is no corner if it lies on or above the line from a to k.
            if (costs[b] - costs[a]) * (units[k] - units[a]) < (costs[k] - costs[a]) * (units[b] - units[a]):
                break
            hull.pop()
        hull.append(int(k))
    return hull
