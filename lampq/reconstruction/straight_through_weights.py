"""Weights trained themselves, rounding passed straight through.

Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation, 2013; blocks
are trained so in GLF-Q. Scale and zero point of every row stay where they are: the weights move from code to code.
"""

import torch
from torch import Tensor


class StraightThroughWeights:
    """The weights of one layer, and what a block is run with in their place: their nearest values

    ``w = s clip(round(W / s), -z, 2^b - 1 - z)``,

    the derivative of which by W is taken to be 1 inside the range and 0 outside. In use as `SoftRounding`.

    Args:
        weight: full-precision weight, ``[out channels, ...]``.
        scale, zero_point: of every row, broadcastable against it.
        bits: of the weights.

    Attributes:
        trained: W, what is trained, shape of the weight; its gradient is put in by `backward`.
        weight: w at the W of the last `refresh`, a leaf that takes gradients.
    """

    def __init__(self, weight: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> None:
        self.trained = weight.detach().clone()
        self.trained.grad = torch.zeros_like(self.trained)
        self._scale, self._zero_point = scale, zero_point
        self._low, self._high = -zero_point, 2**bits - 1 - zero_point
        self.weight = torch.empty_like(self.trained).requires_grad_()
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute w from W."""
        level = (self.trained / self._scale).round_()
        self._clipped = torch.minimum(torch.maximum(level, self._low), self._high)
        self._inside = level == self._clipped
        torch.mul(self._clipped, self._scale, out=self.weight.detach())

    @torch.no_grad()
    def backward(self, gradient: Tensor, regularization: float, beta: float | None) -> None:
        """Put the gradient of W into ``trained.grad``.

        Args:
            gradient: of the loss, with respect to w.
            regularization, beta: of a rounding; there is nothing here that they are for.
        """
        torch.mul(gradient, self._inside, out=self.trained.grad)

    @torch.no_grad()
    def codes(self) -> Tensor:
        """The weights' codes."""
        return (self._clipped + self._zero_point).to(torch.int32)
