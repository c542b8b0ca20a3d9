"""What a change of bits does to the loss in the quantized model, measured: each changed plan is scored on D.

Far from the plan (at 3 bits one bit more or less is far) what a gradient foretells is not what happens. Scoring costs a
forward pass from the changed block on for each change, but holds, but for the noise of D, whatever the size of the
change; only what several changes do together is still a guess.
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from lampq.plan.bit_plan import BitPlan
from lampq.progress import progress
from lampq.workbench import Workbench

K = TypeVar("K")


def measured_changes(
    workbench: Workbench, plan: BitPlan, others: Mapping[K, BitPlan], images: int | None = None
) -> dict[K, Tensor]:
    """``loss_n(other) - loss_n(plan)`` of every image n, by what names the other plan.

    Each score lies in the store by itself, so an interrupted measurement goes on at the next one.

    Args:
        plan: where the changes start from.
        images: the first so many of those that plans are scored on; None: all.

    Returns:
        float64 ``[images]``, in nats.
    """
    evaluator = workbench.evaluator.on_first(images)
    every = [site for each in (plan, *others.values()) for site in each.sites if site.bits.quantized]
    workbench.prepare(list(dict.fromkeys((workbench.adapter.site(site.name), site.bits) for site in every)))
    evaluator.set_base(plan)
    before = evaluator.score(plan).loss
    changed = {key: other for key, other in others.items() if other.key() != plan.key()}
    bar = progress(changed.items(), description="changed plans on D", total=len(changed), unit="plans")
    found = {key: evaluator.score(other).loss - before for key, other in bar}
    return {key: found.get(key, torch.zeros_like(before)) for key in others}
