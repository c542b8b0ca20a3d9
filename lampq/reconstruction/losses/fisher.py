"""Fisher approximation of low rank and diagonal, taken from gradients at the block as it is being trained.

Wu et al., FIMA-Q: Post-Training Quantization for Vision Transformers by Fisher Information Matrix Approximation, CVPR
2025.
"""

import torch
from torch import Tensor

from lampq.reconstruction.block import Block
from lampq.reconstruction.losses.base import BlockLoss
from lampq.reconstruction.losses.divergence import divergence

CHUNK = 4
"""Images whose gradients are computed at once; fixed, so that sums do not depend on threads."""


class FisherApproximation(BlockLoss):
    """``mean(a B^-1 a') + mean(d^2 mean_k G_k)`` with d the output error of an image and ``a_k = sum |d| G_k``, each
    term divided by its value when it was last refreshed.

    Rows G_k are the mean magnitudes of the divergence's gradient at the block's output, B the inner products of the
    rows of mean |output error| found with them. A row is added every ``iterations / rank`` steps.

    Args:
        temperature: T of the divergence.
        rank: how many rows are collected.
        iterations: steps of training.
        images: how many images, the first ones, a row is averaged over.
    """

    def __init__(self, temperature: float, rank: int, iterations: int, images: int) -> None:
        self.temperature, self.rank, self.images = temperature, rank, images
        self._every = max(1, iterations // rank)

    def prepare(self, block: Block) -> None:
        self._gradients: list[Tensor] = []
        self._errors: list[Tensor] = []

    def refresh(self, block: Block, step: int) -> None:
        if step % self._every or len(self._gradients) == self.rank:
            return
        gradient, error = self._rows(block)
        self._gradients.append(gradient)
        self._errors.append(error)
        rows = torch.stack(self._errors)
        self._rows_of_gradients = torch.stack(self._gradients).float()
        self._inverse = torch.linalg.pinv(rows @ rows.T, hermitian=True).float()
        self._diagonal = self._rows_of_gradients.mean(0)
        self._factors = tuple(block.scale_to(1.0, term) for term in (self._low_rank, self._of_diagonal))

    def __call__(self, output: Tensor, target: Tensor, images: Tensor) -> Tensor:
        low_rank, diagonal = self._factors
        return low_rank * self._low_rank(output, target) + diagonal * self._of_diagonal(output, target)

    def _low_rank(self, output: Tensor, target: Tensor) -> Tensor:
        products = (output - target).abs().flatten(1) @ self._rows_of_gradients.T
        return ((products @ self._inverse) * products).sum(1)

    def _of_diagonal(self, output: Tensor, target: Tensor) -> Tensor:
        return ((output - target).square().flatten(1) * self._diagonal).mean(1)

    def _rows(self, block: Block) -> tuple[Tensor, Tensor]:
        """Mean |gradient| and mean |output error| of the first images, float64 ``[elements of an image's output]``."""
        logits = block.full_precision_logits()

        def of_chunk(images: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                output = block.run(block.segment.inputs[images])
            with torch.enable_grad():
                output.requires_grad_()
                value = divergence(block.rest(output), logits[images], self.temperature).sum()
                (gradient,) = torch.autograd.grad(value, output)
            error = output.detach() - block.targets[images]
            return tuple(x.abs().double().flatten(1).sum(0) for x in (gradient, error))

        count = min(self.images, len(block.targets))
        parts = block.workers.map(of_chunk, torch.arange(count).split(CHUNK))
        return tuple(sum(part) / count for part in zip(*parts, strict=True))
