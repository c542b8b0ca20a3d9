"""MLP reconstruction: an MLP is trained anew with ReLU in place of GELU, before anything is quantized.

Wu et al., APHQ-ViT, CVPR 2025. A ReLU's output has no negative values, and values above a bound are made rare, so that
its quantizer has fewer to cover.
"""

from collections.abc import Callable
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

CLIPPED_WEIGHT = 2.0
"""The published weight of the error with clipped activations."""


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


@dataclass(frozen=True)
class MlpLoss:
    """``L(error) / divisor + 2 L(error with fc2's input clipped at the bound)``.

    Attributes:
        of_error: L of output errors ``[images, tokens, channels]``, ``[images]``.
        divisor: of the first term.
    """

    of_error: Callable[[Tensor], Tensor]
    divisor: float = 1.0


def mean_squared(error: Tensor) -> Tensor:
    """Mean over tokens and channels, ``[images, tokens, channels] -> [images]``."""
    return error.square().flatten(1).mean(1)


def weighed(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """``H error^2``, summed over tokens and averaged over channels.

    Args:
        weights: H, the importance of the output's elements ``[tokens, channels]``; only its proportions matter.
    """
    weights = weights / weights.square().mean().sqrt().clamp(min=torch.finfo(weights.dtype).tiny)
    return lambda error: summed_over_tokens(weights * error.square())


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
    block: Block, fc1: nn.Linear, fc2: nn.Linear, gelu: nn.Module, inputs: Tensor, loss: MlpLoss, recipe: MlpRecipe
) -> Mlp:
    """Train a copy of an MLP with ReLU to give what the original gives with GELU.

    Args:
        block: of the MLP; runs pieces of batches and counts steps.
        fc1, fc2: the original's layers.
        gelu: its activation between them.
        inputs: of fc1 in the full-precision network, ``[images, tokens, channels]``.
        loss: of errors of the output.
    """
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
            free, clipped = (loss.of_error(error).sum() for error in errors)
            value = (free / loss.divisor + CLIPPED_WEIGHT * clipped) / recipe.batch_size
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
