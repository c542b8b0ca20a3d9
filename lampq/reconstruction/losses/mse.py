"""Squared error of a block's output."""

from torch import Tensor

from lampq.reconstruction.losses.base import BlockLoss, summed_over_tokens


class SquaredError(BlockLoss):
    """Squared errors, summed over tokens and averaged over channels.

    Args:
        divisor: what they are divided by; it weighs them against the regularizer of the rounding (AdaLog: 10).
    """

    def __init__(self, divisor: float = 1.0) -> None:
        self.divisor = divisor

    def __call__(self, output: Tensor, target: Tensor, images: Tensor) -> Tensor:
        return summed_over_tokens((output - target).square()) / self.divisor
