"""The last number: a plan's accuracy on the validation images."""

import torch
from torch import Tensor

from lampq.bank.quantized_model import QuantizedModel
from lampq.plan.bit_plan import BitPlan
from lampq.storage.store import Store
from lampq.tasks.task import Task

PIECE = 1000
"""Images after which results are stored, so that an interrupted evaluation goes on from there."""


def validate(quantized: QuantizedModel, plan: BitPlan, task: Task, store: Store, identity: dict) -> dict[str, Tensor]:
    """Results of a plan on the validation images (see `Task.measure`)."""
    identity = {**identity, "plan": plan.key(), "validation": task.identity["validation"]}
    pieces = []
    for start in range(0, task.validation_count, PIECE):
        stop = min(start + PIECE, task.validation_count)
        pieces.append(
            store.fetch(
                "validation",
                {**identity, "start": start, "stop": stop},
                lambda start=start, stop=stop: task.measure(quantized.apply(plan).adapter, start, stop),
            )
        )
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
