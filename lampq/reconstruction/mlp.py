"""MLP reconstruction: an MLP is trained anew with ReLU in place of GELU, before anything is quantized.

Wu et al., APHQ-ViT, CVPR 2025. A ReLU's output has no negative values, and values above a bound are made rare, so that
its quantizer has fewer to cover.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lampq.reconstruction.block import PIECES, Block
from lampq.reconstruction.losses.base import summed_over_tokens
from lampq.reconstruction.training import added, cosine

BOUND_IMAGES = 32
"""Images, the first ones, whose activations give the bound."""

ERROR_DIVISOR, CLIPPED_WEIGHT = 10.0, 2.0
"""The published weights of the error, and of the error with clipped activations."""


@dataclass(frozen=True)
class MlpRecipe:
    """How an MLP is trained.

    Attributes:
        iterations: steps.
        batch_size: images of a step.
        rate: learning rate of weights and biases (Adam), which a cosine takes to 0.
        percentile: of the positive full-precision activations; the bound that is taught to clip at.
    """

    iterations: int
    batch_size: int
    rate: float
    percentile: float


def published_percentile(bits: int) -> float:
    """The percentile that belongs to some bits of the activation: 0.98 at 2 and 4 bits, 0.99 at 3 and at all others."""
    return 0.98 if bits in (2, 4) else 0.99


@dataclass(frozen=True)
class Mlp:
    """fc1 and fc2 of a block, in full precision.

    Attributes:
        weight1, bias1, weight2, bias2: ``[hidden, channels]``, ``[hidden]``, ``[channels, hidden]``, ``[channels]``.
    """

    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor

    @classmethod
    def of(cls, fc1: nn.Linear, fc2: nn.Linear) -> "Mlp":
        tensors = []
        for layer in (fc1, fc2):
            bias = torch.zeros(layer.out_features).to(layer.weight) if layer.bias is None else layer.bias
            tensors += [layer.weight.detach().clone(), bias.detach().clone()]
        return cls(*tensors)

    def hidden(self, x: Tensor) -> Tensor:
        """fc2's input, ``[..., channels] -> [..., hidden]``."""
        return functional.linear(x, self.weight1, self.bias1).relu()

    def second(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.weight2, self.bias2)

    def layers(self) -> tuple[nn.Linear, nn.Linear]:
        """fc1 and fc2 as layers."""
        pairs = (self.weight1, self.bias1), (self.weight2, self.bias2)
        made = []
        for weight, bias in pairs:
            layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
            layer.weight, layer.bias = (nn.Parameter(x.detach(), requires_grad=False) for x in (weight, bias))
            made.append(layer)
        return tuple(made)


def reconstruct_mlp(
    block: Block, fc1: nn.Linear, fc2: nn.Linear, gelu: nn.Module, inputs: Tensor, weights: Tensor, recipe: MlpRecipe
) -> Mlp:
    """Train a copy of an MLP with ReLU to give what the original gives with GELU.

    The loss is ``H (y - y_fp)^2``, and twice the same with fc2's inputs clipped at the bound (the first of the two
    divided by 10).

    Args:
        block: of the MLP; runs pieces of batches and counts steps.
        fc1, fc2: the original's layers.
        gelu: its activation between them.
        inputs: of fc1 in the full-precision network, ``[images, tokens, channels]``.
        weights: H, the importance of the output's elements, as one image's output; only its proportions matter.
    """
    weights = weights.view(inputs.shape[1:]) / weights.square().mean().sqrt().clamp(min=torch.finfo(weights.dtype).tiny)
    original, trained = Mlp.of(fc1, fc2), Mlp.of(fc1, fc2)
    with torch.no_grad():
        hidden = gelu(functional.linear(inputs[:BOUND_IMAGES], original.weight1, original.bias1)).flatten()
        positive = hidden[hidden > 0]
        bound = (
            positive.kthvalue(max(1, round(recipe.percentile * len(positive)))).values if len(positive) else hidden[0]
        )
    leaves = [trained.weight1, trained.bias1, trained.weight2, trained.bias2]
    for leaf in leaves:
        leaf.requires_grad_()
    optimizer = torch.optim.Adam(leaves, recipe.rate, foreach=True)
    seed = (block.segment.seed, block.segment.index)

    def of_piece(images: Tensor) -> tuple[Tensor, ...]:
        x = inputs[images]
        with torch.no_grad():
            target = original.second(gelu(functional.linear(x, original.weight1, original.bias1)))
        with torch.enable_grad():
            hidden = trained.hidden(x)
            errors = [trained.second(values) - target for values in (hidden, hidden.clamp(max=bound))]
            free, clipped = (summed_over_tokens(weights * error.square()).sum() for error in errors)
            value = (free / ERROR_DIVISOR + CLIPPED_WEIGHT * clipped) / recipe.batch_size
        return torch.autograd.grad(value, leaves)

    for step in range(recipe.iterations):
        batch = torch.from_numpy(np.random.default_rng((*seed, step)).permutation(len(inputs))[: recipe.batch_size])
        gradients = added(block.workers.map(of_piece, [piece for piece in batch.tensor_split(PIECES) if len(piece)]))
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        optimizer.param_groups[0]["lr"] = cosine(recipe.rate, step, recipe.iterations)
        optimizer.step()
        block.segment.step(1)
    return Mlp(*(leaf.detach() for leaf in leaves))
