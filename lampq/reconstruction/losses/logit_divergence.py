"""Divergence of the class probabilities that a block's error leads to, on the very output that is trained."""

from torch import Tensor

from lampq.reconstruction.block import Block
from lampq.reconstruction.losses.base import BlockLoss
from lampq.reconstruction.losses.divergence import divergence


class LogitDivergence(BlockLoss):
    """``KL(softmax(fp / T) || softmax(q / T))``: q are the logits when the rest of the network, in full precision, goes
    on from the block's output.

    Args:
        temperature: T.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def prepare(self, block: Block) -> None:
        self._logits = block.full_precision_logits()
        self._rest = block.rest

    def __call__(self, output: Tensor, target: Tensor, images: Tensor) -> Tensor:
        return divergence(self._rest(output), self._logits[images], self.temperature)
