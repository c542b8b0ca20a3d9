"""Global feature difference: what a block's error does to what the classifier reads.

Sun et al., GLF-Q, arXiv 2609.34564, 2026, eq. 3 and 4.
"""

from torch import Tensor

from lampq.reconstruction.block import Block
from lampq.reconstruction.losses.base import BlockLoss


class GlobalFeature(BlockLoss):
    """``|f(y) - f_fp|^2`` as a mean over channels: f is the class token behind the last norm (of a network that pools
    tokens, their mean) when the rest of the network, in full precision, goes on from the block's output."""

    def prepare(self, block: Block) -> None:
        self._features = block.full_precision_features()
        self._rest = block.rest_to_features

    def __call__(self, output: Tensor, target: Tensor, images: Tensor) -> Tensor:
        return (self._rest(output) - self._features[images]).square().mean(1)
