"""The plan of least total score within the budget, for metrics that score each layer at each of its bit-widths."""

import logging

from lampq.allocation.search_space import LayerScores, SearchSpace
from lampq.allocation.solvers.dynamic_program import Allocation
from lampq.allocation.solvers.ilp import solve_ilp
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.workbench import Workbench

log = logging.getLogger(__name__)


def least_score_plan(
    workbench: Workbench, budget: Budget, scores: dict[str, dict[int, float]], origin: dict
) -> BitPlan:
    """``argmin sum_i score_i(B_i)`` within the budget, its ties and pins, solved exactly.

    Args:
        scores: by layer and bits, whatever adds up; the layers in the order of execution.
        origin: where the scores come from; solver, objective and scores are added.

    Raises:
        LampQError: no plan keeps the budget, or a score is not a number.
    """
    layer_bits, allocation = least_score_bits(SearchSpace.open(workbench, budget), scores)
    log.info("%s: total score %.6g, by %s", origin["allocator"], allocation.objective, allocation.solver)
    told = {**origin, "solver": allocation.solver, "objective": allocation.objective, "scores": by_text(scores)}
    return budget.plan(workbench.adapter.sites, layer_bits, told).with_scores(at_the_target(scores, budget))


def least_score_bits(space: SearchSpace, scores: LayerScores) -> tuple[dict[str, int], Allocation]:
    """The bits of each layer, by name, and the allocation of the groups that they come from.

    Args:
        space: what may be chosen.
        scores: by layer and bits.

    Raises:
        LampQError: a score is not a number.
    """
    allocation = solve_ilp(space.costs(scores), space.spending, space.bits, space.room)
    return space.layer_bits(allocation.bits), allocation


def by_text(scores: LayerScores) -> dict[str, dict[str, float]]:
    """Scores with their bits as text, as JSON has them."""
    return {name: {str(bits): value for bits, value in row.items()} for name, row in scores.items()}


def at_the_target(scores: dict[str, dict[int, float]], budget: Budget) -> dict[str, float]:
    """Each layer's score at one and the same bit-width, the target or the next in the bit set: they compare."""
    bits = min((b for b in budget.candidates if b >= budget.weight_bits), default=budget.candidates[-1])
    return {name: row[bits] for name, row in scores.items()}
