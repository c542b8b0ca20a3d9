"""What one layer at few bits adds to the loss on D, measured: one plan scored for each layer and bit-width."""

import math

from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.progress import progress
from lampq.workbench import Workbench


def single_layer_losses(workbench: Workbench, budget: Budget, others: int | None = None) -> dict[str, dict[int, float]]:
    """``loss(layer at b, others as they are) - loss(layer in full precision, others as they are)``, means over D.

    Each score lies in the store by itself, so an interrupted measurement goes on at the next one.

    Args:
        budget: the bit set, and the bits of inputs.
        others: bits of all other layers, what lies outside the 4N at its fixed bits; None: everything else is in full
            precision.

    Returns:
        By layer and bits, nats, as measured: noise of D may make it negative, or let it rise with more bits.

    Raises:
        LampQError: a loss is not finite, or the base quantizer is not defined at a bit-width needed.
    """
    layers, sites, evaluator = workbench.layers, workbench.adapter.sites, workbench.evaluator
    if others is None:
        context = BitPlan.full_precision(sites)
    else:
        context = budget.plan(sites, dict.fromkeys((s.name for s in layers), others))
    workbench.bank.calibrate(context)
    workbench.bank.prepare([(s, b, budget.input_bits(b)) for s in layers for b in budget.candidates])
    evaluator.set_base(context)
    total = (len(budget.candidates) + (others is not None)) * len(layers)
    bar = progress(description="losses of single layers on D", total=total, unit="scores")

    def loss(name: str, bits: int | None) -> float:
        pair = (None, None) if bits is None else (bits, budget.input_bits(bits))
        value = evaluator.score(context.with_bits({name: pair})).mean_loss
        if not math.isfinite(value):
            raise LampQError(
                f"bit_set: the loss on D with {name} at {bits} bits is {value}; leave the smallest bits out of the "
                "bit set"
            )
        bar.update()
        return value

    losses: dict[str, dict[int, float]] = {}
    try:
        whole = evaluator.score(context).mean_loss if others is None else None
        for site in layers:
            base = loss(site.name, None) if whole is None else whole
            losses[site.name] = {bits: loss(site.name, bits) - base for bits in budget.candidates}
    finally:
        bar.close()
    return losses
