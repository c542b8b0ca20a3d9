"""Local feature difference: the squared error of a block's output, nothing weighed.

Sun et al., GLF-Q: Global-Local Feature-Based Quantization for Vision Transformers, arXiv 2609.34564, 2026, eq. 5.
"""

from torch import Tensor

from lampq.reconstruction.losses.base import BlockLoss


class LocalFeature(BlockLoss):
    """``|y - y_fp|^2`` as a mean over tokens and channels."""

    def __call__(self, output: Tensor, target: Tensor, images: Tensor) -> Tensor:
        return (output - target).square().flatten(1).mean(1)
