"""Adaptive rounding: whether a weight is rounded down or up is trained.

Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization, ICML 2020 (AdaRound); the stretched sigmoid
and its regularizer are theirs. Between its two neighbouring codes a weight has a soft place

``h(alpha) = clip(1.2 sigmoid(alpha) - 0.1, 0, 1)``,  ``w = s (clip(floor(W / s) + h(alpha) + z, 0, 2^b - 1) - z)``,

which starts where the full-precision weight is, and ends at 0 or 1: up if alpha >= 0.
"""

import torch
from torch import Tensor

from lampq.number_formats.uniform import affine_values

STRETCH, OFFSET = 1.2, 0.1
"""zeta - gamma and -gamma of the stretched sigmoid (zeta 1.1, gamma -0.1)."""


class SoftRounding:
    """The soft weights of one layer and the gradients of what they are made of.

    The weights are a leaf that a block is run with; everything between them and alpha is closed form, so that a step
    takes a few passes over the weights and no graph.

    Args:
        weight: full-precision weight, ``[out channels, ...]``.
        scale, zero_point: of every row, broadcastable against it.
        bits: of the weights.

    Attributes:
        alpha: what is trained, shape of the weight; its gradient is put in by `backward`.
        weight: the soft weight at the alpha of the last `refresh`, a leaf that takes gradients.
    """

    def __init__(self, weight: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> None:
        ratio = weight.detach() / scale
        level = ratio.floor()
        lower = level + zero_point
        highest = 2**bits - 1
        # Outside the clip range both neighbours are the same code: there is nothing to choose.
        self._free = (lower >= 0) & (lower < highest)
        self._lower_codes = lower.clamp_(0, highest)
        self._lower = affine_values(self._lower_codes.clone(), scale, zero_point)
        self._step = scale * self._free
        self.alpha = logit(ratio - level)
        self.alpha.grad = torch.zeros_like(self.alpha)
        self._sigmoid, self._soft = torch.empty_like(self.alpha), torch.empty_like(self.alpha)
        self.weight = torch.empty_like(self.alpha).requires_grad_()
        self.refresh()

    @property
    def trained(self) -> Tensor:
        """What is trained: alpha."""
        return self.alpha

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute the soft weights from alpha."""
        torch.sigmoid(self.alpha, out=self._sigmoid)
        torch.mul(self._sigmoid, STRETCH, out=self._soft).sub_(OFFSET).clamp_(0, 1)
        torch.addcmul(self._lower, self._step, self._soft, out=self.weight.detach())

    @torch.no_grad()
    def backward(self, gradient: Tensor, regularization: float, beta: float | None) -> None:
        """Put the gradient of alpha into ``alpha.grad``.

        Args:
            gradient: of the loss, with respect to the soft weights; overwritten.
            regularization: lambda, the weight of the regularizer.
            beta: its exponent; None while it is not active.
        """
        soft = gradient.mul_(self._step)
        if beta is not None:
            soft.add_(regularizer_slope(self._soft, beta), alpha=regularization)
        # h is constant where it is clipped.
        inside = (self._soft > 0) & (self._soft < 1)
        torch.mul(soft.mul_(inside), self._sigmoid, out=self.alpha.grad)
        self.alpha.grad.mul_(1 - self._sigmoid).mul_(STRETCH)

    @torch.no_grad()
    def codes(self) -> Tensor:
        """The weights' codes after hardening: the lower neighbour, or the upper one where alpha >= 0."""
        up = (self.alpha >= 0) & self._free
        return (self._lower_codes + up).to(torch.int32)


def logit(fraction: Tensor) -> Tensor:
    """alpha at which ``h(alpha)`` is the given fraction in [0, 1)."""
    return torch.logit((fraction + OFFSET) / STRETCH)


def soft_place(alpha: Tensor) -> Tensor:
    """``h(alpha)``"""
    return (STRETCH * torch.sigmoid(alpha) - OFFSET).clamp(0, 1)


def regularizer(soft: Tensor, beta: float) -> Tensor:
    """``sum(1 - |2h - 1|^beta)``: 0 where every h is 0 or 1."""
    return (1 - (2 * soft - 1).abs().pow(beta)).sum()


def regularizer_slope(soft: Tensor, beta: float) -> Tensor:
    """Derivative of `regularizer` by every h."""
    distance = 2 * soft - 1
    return distance.abs().pow_(beta - 1).mul_(distance.sign_()).mul_(-2 * beta)


def regularizer_exponent(step: int, iterations: int, warmup: float, start: float, end: float) -> float | None:
    """beta at a step: None during the warm-up, then linearly from `start` to `end`."""
    first = warmup * iterations
    if step < first:
        return None
    return start + (end - start) * (step - first) / max(1.0, iterations - first)
