"""What one layer at few bits adds to the loss on D, measured: one plan scored for each layer and bit-width."""

import math
from collections.abc import Mapping, Sequence

from lampq.errors import LampQError
from lampq.limits import integer
from lampq.parts import setting
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from lampq.progress import progress
from lampq.sensitivity.metric import Metric
from lampq.sensitivity.scores import Scores, SiteScores
from lampq.workbench import Workbench


def precision_of_others(key: str, value: str | int) -> str | int:
    """``full_precision``, or bits.

    Raises:
        LampQError: it is neither.
    """
    if value != "full_precision" and (isinstance(value, bool) or not isinstance(value, int)):
        raise LampQError(f"{key}={value}: must be full_precision, or an integer of bits")
    return value if value == "full_precision" else integer(key, value, 1, 16)


class SingleLayerLoss(Metric):
    """``loss(layer at b, others as they are) - loss(layer in full precision, others as they are)``, means over D.

    Each score lies in the store by itself, so an interrupted measurement goes on at the next one.

    Args:
        others: precision of the other layers while one is measured: ``full_precision``, or bits, at which everything
            outside the 4N layers is at its fixed bits.
    """

    name = "single_layer_loss"
    scores_sites = True

    others: str | int = setting("full_precision", check=precision_of_others)

    def scores(self, workbench: Workbench, budget: Budget) -> Scores:
        """Nats, as measured: noise of D may make it negative, or let it rise with more bits.

        Raises:
            LampQError: a loss is not finite, or the base quantizer is not defined at a bit-width needed.
        """
        found = self.site_scores(
            workbench, budget, {s.name: [budget.bits_at(b) for b in budget.candidates] for s in workbench.layers}
        )
        return {name: {b: row[budget.bits_at(b)] for b in budget.candidates} for name, row in found.items()}

    def site_scores(self, workbench: Workbench, budget: Budget, options: Mapping[str, Sequence[Bits]]) -> SiteScores:
        layers, sites, evaluator = workbench.layers, workbench.adapter.sites, workbench.evaluator
        scored = [s for s in sites if s.name in options]
        alone = self.others == "full_precision"
        if alone:
            context = BitPlan.full_precision(sites)
        else:
            workbench.bank.check_bits("allocator.others", self.others)
            context = budget.plan(sites, dict.fromkeys((s.name for s in layers), self.others))
        workbench.bank.calibrate(context)
        workbench.bank.prepare([(s, bits) for s in scored for bits in options[s.name]])
        evaluator.set_base(context)
        total = sum(len(options[s.name]) + (not alone) for s in scored)
        bar = progress(description="losses of single layers on D", total=total, unit="scores")

        def loss(name: str, bits: Bits) -> float:
            value = evaluator.score(context.with_bits({name: bits})).mean_loss
            if not math.isfinite(value):
                few = bits.activation if bits.weight is None else bits.weight
                raise LampQError(
                    f"bit_set: the loss on D with {name} at {few} bits is {value}; leave the smallest bits out of the "
                    "bit set"
                )
            bar.update()
            return value

        losses = {}
        try:
            whole = evaluator.score(context).mean_loss if alone else None
            for site in scored:
                base = loss(site.name, Bits(None, None)) if whole is None else whole
                losses[site.name] = {bits: loss(site.name, bits) - base for bits in options[site.name]}
        finally:
            bar.close()
        return losses
