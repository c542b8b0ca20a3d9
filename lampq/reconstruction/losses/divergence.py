"""Kullback-Leibler divergence of class probabilities: what the head is trained by."""

from torch import Tensor
from torch.nn import functional

from lampq.reconstruction.losses.base import BlockLoss


class Divergence(BlockLoss):
    """``KL(softmax(target / T) || softmax(output / T))`` of logits.

    Args:
        temperature: T.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def __call__(self, output: Tensor, target: Tensor, images: Tensor) -> Tensor:
        return divergence(output, target, self.temperature)


def divergence(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """``KL(softmax(target / T) || softmax(logits / T))``, ``[batch, classes] -> [batch]``."""
    log_q, log_p = ((x / temperature).log_softmax(1) for x in (logits, target))
    return functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
