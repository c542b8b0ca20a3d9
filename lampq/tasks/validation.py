"""The last number: a plan's accuracy on the validation images, and whether full precision reaches what is published."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from lampq.bank.quantized_model import QuantizedModel
from lampq.models.adapter import ModelAdapter
from lampq.plan.bit_plan import BitPlan
from lampq.storage.store import Store
from lampq.tasks.accuracies import ACCURACIES
from lampq.tasks.task import Task

log = logging.getLogger(__name__)

PIECE = 1000
"""Images after which results are stored, so that an interrupted evaluation goes on from there."""

GATE = 0.3
"""Points by which a full validation set may disagree with the published full-precision accuracy."""


def validate(quantized: QuantizedModel, plan: BitPlan, task: Task, store: Store, identity: dict) -> dict[str, Tensor]:
    """Results of a plan on the validation images (see `Task.measure`)."""
    return measured(lambda: quantized.apply(plan).adapter, task, store, {**identity, "plan": plan.key()})


def measured(model: Callable[[], ModelAdapter], task: Task, store: Store, identity: dict) -> dict[str, Tensor]:
    """Results of a model on the validation images (see `Task.measure`).

    Args:
        model: gives it; called where results are not in the store.
        identity: of the model, and of how it computes.
    """
    identity = {**identity, "validation": task.identity["validation"]}
    pieces = []
    count = task.dataset.validation_count
    for start in range(0, count, PIECE):
        stop = min(start + PIECE, count)
        pieces.append(
            store.fetch(
                "validation",
                {**identity, "start": start, "stop": stop},
                lambda start=start, stop=stop: task.measure(model(), start, stop),
            )
        )
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def check_published(task: Task, metrics: dict) -> None:
    """Warn where a full validation set disagrees with the published full-precision accuracy by more than `GATE`."""
    if task.dataset.full_validation_images != metrics["images"]:
        return
    for name, published in task.published(task.adapter).items():
        measured = metrics[f"{name}_full_precision"]
        if abs(measured - published) > GATE:
            log.warning(
                "full precision reaches %.2f %% %s, published are %.2f %%: check weights and preprocessing",
                measured,
                ACCURACIES[name],
                published,
            )
