"""The last number: a plan's accuracy on the validation images."""

import math

import torch
from torch import Tensor

from lampq.plan import BitPlan
from lampq.progress import progress
from lampq.quantized_model import QuantizedModel
from lampq.store import Store
from lampq.tasks.classification import ClassificationTask

PIECE = 1000
"""Images after which results are stored, so that an interrupted evaluation goes on from there."""


def validate(
    quantized: QuantizedModel, plan: BitPlan, task: ClassificationTask, store: Store, identity: dict
) -> dict[str, Tensor]:
    """Per-image results of a plan on the validation images: ``loss``, ``top1``, ``top5``, float64 ``[images]``."""
    identity = {**identity, "plan": plan.key(), "validation": task.identity["validation"]}
    pieces = []
    for start in range(0, task.validation_count, PIECE):
        stop = min(start + PIECE, task.validation_count)
        pieces.append(
            store.fetch(
                "validation",
                {**identity, "start": start, "stop": stop},
                lambda start=start, stop=stop: _run(quantized.apply(plan), task, start, stop),
            )
        )
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


@torch.inference_mode()
def _run(quantized: QuantizedModel, task: ClassificationTask, start: int, stop: int) -> dict[str, Tensor]:
    results: list[dict[str, Tensor]] = []
    done = start
    bar = progress(description=f"evaluating images {start + 1} to {stop}", total=stop - start, unit="images")
    for images, labels in task.validation(start):
        images, labels = images[: stop - done], labels[: stop - done]
        results.append(task.outcome(quantized.adapter.run(images), labels))
        bar.update(len(images))
        done += len(images)
        if done >= stop:
            break
    bar.close()
    return {name: torch.cat([result[name] for result in results]) for name in results[0]}


def accuracy_metrics(quantized: dict[str, Tensor], full_precision: dict[str, Tensor]) -> dict[str, float]:
    """Percentages with standard errors; the difference is paired over the same images."""
    count = len(quantized["top1"])

    def percent(values: Tensor) -> float:
        return 100 * values.mean().item()

    def standard_error(values: Tensor) -> float:
        return 100 * values.std().item() / math.sqrt(count) if count > 1 else math.nan

    difference = quantized["top1"] - full_precision["top1"]
    return {
        "top1": percent(quantized["top1"]),
        "top5": percent(quantized["top5"]),
        "top1_standard_error": standard_error(quantized["top1"]),
        "top1_full_precision": percent(full_precision["top1"]),
        "top1_full_precision_standard_error": standard_error(full_precision["top1"]),
        "top1_difference": percent(difference),
        "top1_difference_standard_error": standard_error(difference),
        "images": count,
    }
