"""Losses of different size added up: each is divided by what it is on the first batch.

Sun et al., GLF-Q, arXiv 2609.34564, 2026, eq. 6 and algorithm 1, lines 12 to 15.
"""

from torch import Tensor

from lampq.reconstruction.block import Block
from lampq.reconstruction.losses.base import BlockLoss

SMALLEST_FIRST_VALUE = 1e-12
"""A loss is divided by this, at least."""


class NormalizedSum(BlockLoss):
    """``sum_k w_k L_k / L_k(first batch)``.

    Args:
        terms: losses and their weights, (L_k, w_k).
    """

    def __init__(self, *terms: tuple[BlockLoss, float]) -> None:
        self.terms = terms

    def prepare(self, block: Block) -> None:
        self._factors = []
        for loss, weight in self.terms:
            loss.prepare(block)
            self._factors.append(weight / max(block.mean(loss, block.first_batch), SMALLEST_FIRST_VALUE))

    def __call__(self, output: Tensor, target: Tensor, images: Tensor) -> Tensor:
        pairs = zip(self._factors, self.terms, strict=True)
        return sum(factor * loss(output, target, images) for factor, (loss, _) in pairs)
