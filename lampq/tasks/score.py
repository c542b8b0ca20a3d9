"""What a plan scores on images of D, and when one plan counts as better than another."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Accept = Literal["accuracy", "loss", "paired"]
"""Rules by which a plan counts as better: see `Score.improves_on`."""


@dataclass(frozen=True)
class Score:
    """Per-image results of one plan on D.

    Attributes:
        loss: the task's loss (cross-entropy in nats), float64 ``[images]``.
        correct: 1 where top-1 is right, else 0, float64 ``[images]`` (of a detector, if asked for, each image's average
            precision); None where an image is not right or wrong.
    """

    loss: Tensor
    correct: Tensor | None = None

    @property
    def accuracy(self) -> float | None:
        """Top-1 accuracy as a fraction; None where only the loss is known."""
        return None if self.correct is None else self.correct.mean().item()

    @property
    def mean_loss(self) -> float:
        return self.loss.mean().item()

    @property
    def outcomes(self) -> list[dict[str, int]]:
        """A row an image of D, in the order of images.json: 1 where it is right, else 0."""
        return [{"image": image, "top1": int(right)} for image, right in enumerate(self.correct.tolist())]

    def improves_on(self, other: "Score", accept: Accept = "accuracy", factor: float = 1.0) -> bool:
        """Whether this plan is better than another one on the same images.

        Args:
            accept: ``accuracy``, as Algorithm 1 has it: more images right, or as many and a lower mean loss (where
                nothing is right or wrong, a lower mean loss); ``loss``: a lower mean loss; ``paired``: a mean loss
                that is lower by more than `factor` standard errors of the paired difference.
            factor: standard errors that a plan must be better by, for ``paired`` alone.
        """
        if accept == "paired":
            change, error = paired_change(self, other)
            return change < -factor * error
        if accept == "loss" or self.correct is None:
            return self.mean_loss < other.mean_loss
        return (self.correct.sum().item(), -self.mean_loss) > (other.correct.sum().item(), -other.mean_loss)


def paired_change(score: Score, other: Score) -> tuple[float, float]:
    """Mean over images of the loss of one plan less that of another, and its standard error; negative is better."""
    return mean_and_error(score.loss - other.loss)


def mean_and_error(per_image: Tensor) -> tuple[float, float]:
    """Mean over images ``[images]``, and its standard error; infinite for a single image."""
    count = per_image.numel()
    return per_image.mean().item(), per_image.std().item() / math.sqrt(count) if count > 1 else math.inf
