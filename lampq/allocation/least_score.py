"""The plan of least total score within the budget, for metrics that score each layer at each of its bit-widths."""

import logging

import numpy as np

from lampq.allocation.base import Search
from lampq.allocation.ilp import solve_ilp
from lampq.budgets import Budget
from lampq.plan import BitPlan

log = logging.getLogger(__name__)


def least_score_plan(search: Search, budget: Budget, scores: dict[str, dict[int, float]], origin: dict) -> BitPlan:
    """``argmin sum_i score_i(B_i)  s.t.  sum_i c_i B_i <= b_t sum_i c_i``, solved exactly.

    Args:
        scores: by layer and bits, whatever adds up; the layers in the order of execution.
        origin: where the scores come from; solver, objective and scores are added.

    Raises:
        LampQError: no plan keeps the budget, or a score is not a number.
    """
    costs = np.array([[scores[s.name][b] for b in budget.candidates] for s in search.layers])
    sizes = [s.parameters for s in search.layers]
    allocation = solve_ilp(costs, sizes, budget.candidates, budget.total(sizes))
    log.info("%s: total score %.6g, by %s", origin["allocator"], allocation.objective, allocation.solver)
    layer_bits = {s.name: bits for s, bits in zip(search.layers, allocation.bits, strict=True)}
    by_bits = {name: {str(bits): value for bits, value in row.items()} for name, row in scores.items()}
    told = {**origin, "solver": allocation.solver, "objective": allocation.objective, "scores": by_bits}
    return budget.plan(search.adapter.sites, layer_bits, told).with_scores(at_the_target(scores, budget))


def at_the_target(scores: dict[str, dict[int, float]], budget: Budget) -> dict[str, float]:
    """Each layer's score at one and the same bit-width, the target or the next in the bit set: they compare."""
    bits = min((b for b in budget.candidates if b >= budget.weight_bits), default=budget.candidates[-1])
    return {name: row[bits] for name, row in scores.items()}
