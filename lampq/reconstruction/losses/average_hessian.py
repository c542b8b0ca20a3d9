"""Average perturbation Hessian: squared errors weighed by how much the class probabilities feel each element.

Wu et al., APHQ-ViT, CVPR 2025. The authors add +eps and -eps (1e-6) to a whole block output and subtract the two
gradients of the divergence. Gradients vanish without a perturbation, so to first order that is ``2 eps |M 1|``, M the
Hessian of the divergence, averaged over images. In single precision a perturbation of 1e-6 drowns in rounding; here
M 1 is computed exactly, and the factor 2 eps does not matter where the loss is scaled.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lampq.reconstruction.losses.base import BlockLoss

if TYPE_CHECKING:
    from lampq.reconstruction.block import Block

CHUNK = 4
"""Images whose Hessian products are computed at once; fixed, so that sums do not depend on threads."""

FIRST_VALUE = 2.0
"""What the loss is scaled to begin with."""


class AveragePerturbation(BlockLoss):
    """``mean(H (y - y_fp)^2)``, scaled so that its value on the first images is 2.

    Args:
        temperature: T of the divergence.
        images: how many images, the first ones, H is averaged over.
    """

    def __init__(self, temperature: float, images: int) -> None:
        self.temperature = temperature
        self.images = images
        self.weights: Tensor | None = None

    def prepare(self, block: "Block") -> None:
        """H, ``[...]`` as one image's output."""
        if self.weights is None:
            self.weights = average_perturbation(block, self.temperature, self.images)
        self._factor = block.scale_to(FIRST_VALUE, self._unscaled)

    def __call__(self, output: Tensor, target: Tensor, images: Tensor) -> Tensor:
        return self._unscaled(output, target) * self._factor

    def _unscaled(self, output: Tensor, target: Tensor) -> Tensor:
        return ((output - target).square() * self.weights).flatten(1).mean(1)


def average_perturbation(block: "Block", temperature: float, images: int) -> Tensor:
    """``|M 1|`` averaged over the first images, shape of one image's output."""
    targets = block.targets[:images]

    def of_chunk(chunk: Tensor) -> Tensor:
        return hessian_times_ones(block.rest, chunk, temperature).abs().double().sum(0)

    return (sum(block.workers.map(of_chunk, targets.split(CHUNK))) / len(targets)).to(targets.dtype)


def hessian_times_ones(rest, state: Tensor, temperature: float) -> Tensor:
    """``M_n 1`` of every image: M_n is the Hessian of ``KL(softmax(rest(x_n) / T) || softmax(rest(x) / T))`` at x_n.

    There it is ``J' (diag(p) - p p') J / T^2`` with J the Jacobian of the logits. ``J 1`` is the derivative by u of
    ``1' J' u``, which is linear in u: forward mode differentiation knows no threads.

    Args:
        rest: from states to logits.
        state: x, ``[batch, ...]``.

    Returns:
        shape of `state`.
    """
    with torch.enable_grad():
        state = state.detach().requires_grad_()
        logits = rest(state)
        u = torch.zeros_like(logits, requires_grad=True)
        (back,) = torch.autograd.grad(logits, state, u, create_graph=True)
        (change,) = torch.autograd.grad(back, u, torch.ones_like(back), retain_graph=True)
        p = (logits.detach() / temperature).softmax(1)
        weights = p * (change - (p * change).sum(1, keepdim=True)) / temperature**2
        return torch.autograd.grad(logits, state, weights)[0]
