"""Average perturbation Hessian: squared errors weighed by how much the class probabilities feel each element.

Wu et al., APHQ-ViT, CVPR 2025. The authors add +eps and -eps (1e-6) to every element of a block's output, subtract the
two gradients of the divergence, and average magnitudes over images: to first order ``2 eps |M 1|``, M the Hessian of
the divergence. But M 1 is zero in a network in which all that reads the output passes through a LayerNorm, as in ViT,
DeiT and Swin: a LayerNorm does not see a number added to all channels. In single precision the two gradients differ all
the same, by what rounding makes of the perturbation: a random one. Here the perturbation is random by intention, an
independent sign for every element and image, and its product with M is exact (no eps; the loss is scaled anyway).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lampq.reconstruction.block import Block
from lampq.reconstruction.losses.base import BlockLoss

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

    def prepare(self, block: Block) -> None:
        """H, ``[...]`` as one image's output."""
        if self.weights is None:
            self.weights = average_perturbation(block, self.temperature, self.images)
        self._factor = block.scale_to(FIRST_VALUE, self._unscaled)

    def __call__(self, output: Tensor, target: Tensor, images: Tensor) -> Tensor:
        return self._unscaled(output, target) * self._factor

    def _unscaled(self, output: Tensor, target: Tensor) -> Tensor:
        return ((output - target).square() * self.weights).flatten(1).mean(1)


def average_perturbation(block: Block, temperature: float, images: int) -> Tensor:
    """``|M v|``, v random signs, averaged over the first images, shape of one image's output."""
    targets, segment = block.targets[:images], block.segment

    def of_chunk(start: int) -> Tensor:
        state = targets[start : start + CHUNK]
        signs = np.random.default_rng((segment.seed, segment.index, start, 0, 0)).integers(0, 2, state.shape)
        direction = torch.from_numpy(2 * signs - 1).to(state)
        return hessian_product(block.rest, state, direction, temperature).abs().double().sum(0)

    chunks = block.workers.map(of_chunk, range(0, len(targets), CHUNK))
    return (sum(chunks) / len(targets)).to(targets.dtype)


def hessian_product(rest: Callable[[Tensor], Tensor], state: Tensor, direction: Tensor, temperature: float) -> Tensor:
    """``M_n v_n`` of every image: M_n is the Hessian of ``KL(softmax(rest(x_n) / T) || softmax(rest(x) / T))`` at x_n.

    There it is ``J' (diag(p) - p p') J / T^2`` with J the Jacobian of the logits. ``J v`` is the derivative by u of
    ``v' J' u``, which is linear in u: forward mode differentiation knows no threads.

    Args:
        rest: from states to logits.
        state: x, ``[batch, ...]``.
        direction: v, of the same shape.

    Returns:
        shape of `state`.
    """
    with torch.enable_grad():
        state = state.detach().requires_grad_()
        logits = rest(state)
        u = torch.zeros_like(logits, requires_grad=True)
        (back,) = torch.autograd.grad(logits, state, u, create_graph=True)
        (change,) = torch.autograd.grad(back, u, direction, retain_graph=True)
        p = (logits.detach() / temperature).softmax(1)
        weights = p * (change - (p * change).sum(1, keepdim=True)) / temperature**2
        return torch.autograd.grad(logits, state, weights)[0]
