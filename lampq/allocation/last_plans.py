"""The last plans of a search, each trained for a few steps: what independent states say of a plan is not what training
makes of it."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from lampq.allocation.search_space import SearchSpace, together
from lampq.bank.quantized_model import QuantizedModel
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.sensitivity.context import equal_bits
from lampq.tasks.sample_evaluation import SampleEvaluator
from lampq.tasks.score import Score, paired_change
from lampq.workbench import Workbench

log = logging.getLogger(__name__)


def best_after_short_training(plan: BitPlan, workbench: Workbench, budget: Budget) -> BitPlan:
    """The best on D of the plan that a search has chosen, equal bits, and the best others that it has scored, all of
    them trained for `rank_steps` steps a block (`rank_last` plans at most).

    Args:
        plan: the chosen one; it stays where no other has a lower mean loss.

    Returns:
        A plan with the origin of the chosen one, and in it what all of them gave (``ranked``, in their order).
    """
    realisation, method = workbench.realisation, workbench.bank.base_quantizer
    short = realisation.by(method.shortened(method.rank_steps))
    model = QuantizedModel(workbench.adapter, workbench.bank, short)
    evaluator = SampleEvaluator(model, workbench.task, workbench.store, short.identity, 0, workbench.limited_to)
    candidates = _candidates(plan, workbench, budget)[: method.rank_last]
    before = {each.key(): workbench.evaluator.score(each) for each in candidates}
    after: dict[str, Score] = {}
    for number, each in enumerate(candidates, 1):
        after[each.key()] = evaluator.score(each)
        loss = after[each.key()].mean_loss
        log.info("plan %d of %d after %d steps: loss %.4f on D", number, len(candidates), method.rank_steps, loss)
    best = min(candidates, key=lambda each: after[each.key()].mean_loss)
    chosen = after[plan.key()]
    ranked = []
    for each in candidates:
        change, error = paired_change(after[each.key()], chosen)
        told = {"bits": each.layer_bits(), "loss_before": before[each.key()].mean_loss}
        told |= {"loss": after[each.key()].mean_loss, "change": change, "standard_error": error}
        ranked.append(told | {"chosen": each.key() == best.key()})
    scores = {site.name: site.score for site in plan.sites if site.score is not None}
    found = best if best.key() == plan.key() else replace(best, origin=plan.origin).with_scores(scores)
    found.origin["ranked"] = ranked
    return found


def _candidates(plan: BitPlan, workbench: Workbench, budget: Budget) -> list[BitPlan]:
    """Different plans of the budget, the chosen one and equal bits first."""
    found = {plan.key(): plan}
    others, spaces = workbench.evaluator.best_first(), SearchSpace.each(workbench, budget)
    if budget.weight_bits in budget.candidates and not budget.beyond_layers:
        others = [equal_bits(workbench, budget), *others]
    for other in others:
        # Sensitivities are scores of plans too, of which most are in full precision.
        if other.budget == budget.to_json() and other.key() not in found and _keeps(other, workbench, budget, spaces):
            found[other.key()] = other
    return list(found.values())


def _keeps(plan: BitPlan, workbench: Workbench, budget: Budget, spaces: Sequence[SearchSpace]) -> bool:
    """Whether a plan is one of those that the budget allows: every site, tied ones too, has what it may have."""
    try:
        bits = [list(space.numbers_in(plan).values()) for space in spaces]
    except StopIteration:  # bits that a group may not have
        return False
    if not all(space.fits(chosen) for space, chosen in zip(spaces, bits, strict=True)):
        return False
    pairs = together(space.pairs(chosen) for space, chosen in zip(spaces, bits, strict=True))
    return budget.plan_of(workbench.adapter.sites, pairs).key() == plan.key()
