"""The best plans of an allocation problem, not only the first: a dynamic program that keeps many."""

import numpy as np

from lampq.allocation.greedy_start import AllocationProblem


def k_best_plans(problem: AllocationProblem, count: int) -> list[list[int]]:
    """The `count` plans of least cost within the budget, best first; fewer where there are fewer.

    For every number of units spent, the best `count` ways to spend them on the layers so far are kept. Of equal costs
    the one with fewer units, then the one found first, comes first.

    Args:
        problem: costs and sizes; see `AllocationProblem`.
        count: how many.

    Returns:
        Columns of the chosen bit-widths, layer by layer, of each plan.
    """
    layers, columns = problem.costs.shape
    best = np.full((problem.room + 1, 1), np.inf)
    best[0, 0] = 0.0
    came_from: list[np.ndarray] = []  # [units, rank] -> column * ranks before + rank before
    for layer in range(layers):
        ranks = best.shape[1]
        ways = np.full((problem.room + 1, columns, ranks), np.inf)
        for column in range(columns):
            spent = problem.units[layer, column]
            if spent <= problem.room:
                ways[spent:, column] = best[: problem.room + 1 - spent] + problem.excess_costs[layer, column]
        flat = ways.reshape(problem.room + 1, -1)
        order = np.argsort(flat, axis=1, kind="stable")[:, :count]
        best = np.take_along_axis(flat, order, axis=1)
        came_from.append(order)
    ends = np.argsort(best, axis=None, kind="stable")[:count]
    plans = []
    for end in ends:
        units, rank = np.unravel_index(end, best.shape)
        if not np.isfinite(best[units, rank]):
            break
        plan = []
        for layer in reversed(range(layers)):
            ranks = came_from[layer - 1].shape[1] if layer else 1
            column, rank = divmod(int(came_from[layer][units, rank]), ranks)
            plan.append(column)
            units = units - problem.units[layer, column]
        plans.append(plan[::-1])
    return plans
