"""Image classification: what a plan is scored by during search and reported by in the end."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lampq.models.adapter import ModelAdapter
from lampq.tasks.task import Task


class ClassificationTask(Task):
    """Top-1 accuracy and cross-entropy on the images of a data set."""

    name = "classification"
    judged = "top1"
    accuracies = ("top1",)
    outcomes_file = "outcomes.csv"

    def losses(self, adapter: ModelAdapter, images: Tensor, targets: Tensor, start: int = 0) -> Tensor:
        """Cross-entropy in nats, ``[images]``."""
        return F.cross_entropy(adapter.run(images, start), targets, reduction="none")

    def judge(self, adapter: ModelAdapter, state: Tensor, targets: Tensor) -> dict[str, Tensor]:
        outcome = self.outcome(adapter.run(state, adapter.segments - 1), targets)
        return {name: outcome[name] for name in ("loss", "top1")}

    def outcome(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Per-image results of a batch, ``[images]``: ``loss`` (cross-entropy, nats), ``top1``, ``top5`` (0 or 1).

        Of equal logits the class with the lower index is ahead; a logit that is not a number is ahead of all others.
        A collapsed model is therefore right as often as it would be by chance, or never.
        """
        loss = F.cross_entropy(logits.double(), labels, reduction="none")
        own, classes = logits.gather(1, labels[:, None]), torch.arange(logits.shape[1], device=logits.device)
        ranks = (~(logits <= own)).sum(1) + ((logits == own) & (classes < labels[:, None])).sum(1)
        return {"loss": loss, "top1": (ranks < 1).double(), "top5": (ranks < 5).double()}

    @torch.inference_mode()
    def measure(self, adapter: ModelAdapter, start: int, stop: int) -> dict[str, Tensor]:
        """``loss``, ``top1``, ``top5``, float64 ``[images]``."""
        results = [self.outcome(adapter.run(images), labels) for images, labels in self.validation(start, stop)]
        return {name: torch.cat([result[name] for result in results]) for name in results[0]}

    def metrics(self, quantized: dict[str, Tensor], full_precision: dict[str, Tensor]) -> dict[str, float]:
        """Percentages with standard errors; the difference is paired over the same images."""
        return accuracy_metrics(quantized, full_precision)

    def outcomes(self, quantized: dict[str, Tensor], full_precision: dict[str, Tensor]) -> list[dict[str, Any]]:
        """A row an image, in the order of images.json: whether each model gets it right, 1 or 0."""
        both = zip(full_precision["top1"].int().tolist(), quantized["top1"].int().tolist(), strict=True)
        return [{"image": i, "full_precision_top1": full, "top1": own} for i, (full, own) in enumerate(both)]

    def published(self, adapter: ModelAdapter) -> dict[str, float]:
        return {} if adapter.published_top1 is None else {"top1": adapter.published_top1}


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
