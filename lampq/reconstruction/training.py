"""Training a block so that it keeps its full-precision output.

Li et al., BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction, ICLR 2021. A step takes a
batch of images, cuts it into a fixed number of pieces that are run side by side, each on one core, and adds up their
gradients. Weights are rounded softly (`lampq.reconstruction.rounding`) or trained straight through
(`lampq.reconstruction.straight_through_weights`), as scales of activations are (`lampq.reconstruction.activations`);
nothing else changes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lampq.calibration.segment import Segment, States
from lampq.models.detection.pictures import Pictures
from lampq.number_formats.adalog import AdaLogQuantizer
from lampq.reconstruction.activations import TrainedAdaLog, TrainedAffine
from lampq.reconstruction.block import PIECES, Block, each
from lampq.reconstruction.dropping import Dropping, mixed
from lampq.reconstruction.losses.base import BlockLoss
from lampq.reconstruction.rounding import SoftRounding, regularizer_exponent
from lampq.reconstruction.straight_through_weights import StraightThroughWeights
from lampq.reparameterization.layernorm import transformed_layer
from lampq.workers import Workers

OPERANDS = {"quantize_input": "input_scale", "quantize_a": "a_scale", "quantize_b": "b_scale"}
"""Number formats of a quantized module, and what their scales are called in a state."""

SMALLEST_RELATIVE_SCALE = 1e-3
"""A scale is not trained below this fraction of where it started."""


@dataclass(frozen=True)
class Recipe:
    """How a block is trained.

    Attributes:
        iterations: steps.
        batch_size: images of a step.
        weight_rate: learning rate of the weights, or of their rounding (Adam), constant.
        scale_rate: learning rate of activation scales (Adam), which a cosine takes to 0.
        regularization: lambda, weight of the regularizer that drives soft weights to a code.
        warmup: fraction of the steps before it sets in.
        exponents: its beta, from there to the end.
        quantized_input: probability that an element of the block's input comes from the quantized network.
        quantized_activation: probability that an element of an activation is quantized.
        weights: what weights are while they are trained; a regularizer is for their rounding alone.
    """

    iterations: int
    batch_size: int
    weight_rate: float
    scale_rate: float
    regularization: float
    warmup: float
    exponents: tuple[float, float] = (20.0, 2.0)
    quantized_input: float = 1.0
    quantized_activation: float = 1.0
    weights: type[SoftRounding | StraightThroughWeights] = SoftRounding


class TrainedBlock(Block):
    """A block with trained weights and scales."""

    def __init__(self, segment: Segment, workers: Workers) -> None:
        super().__init__(segment, workers)
        self._weights: dict[str, SoftRounding | StraightThroughWeights] = {}
        self._scales: dict[tuple[str, str], Tensor] = {}

    @property
    def leaves(self) -> list[Tensor]:
        """Tensors that the block is run with and gradients are taken of: weights, then scales."""
        return [weights.weight for weights in self._weights.values()] + list(self._scales.values())

    def make_trainable(
        self,
        states: States,
        layers: dict[str, nn.Module],
        recipe: Recipe,
        quantized_module: Callable[..., nn.Module],
        has_choice: Callable[[int | None], bool],
    ) -> None:
        """Put quantized modules with trained weights and scales into the segment.

        Args:
            states: where every site starts.
            layers: full-precision layers in place of the network's own, by name.
            quantized_module: of the method (`BaseQuantizer.quantized_module`).
            has_choice: whether weights at some bits have codes to choose from.
        """
        adapter = self.segment.full_precision
        self._dropping = Dropping(recipe.quantized_activation)
        self._states = states
        for site, bits in self.segment.sites:
            layer, state = layers.get(site.name, adapter.module(site.name)), states[site.name]
            module = quantized_module(site, layer, state, bits)
            if "weight_scale" in state and has_choice(bits.weight):
                weight, module.bias = transformed_layer(layer, state)
                row = (-1, *[1] * (weight.dim() - 1))
                scale, zero_point = state["weight_scale"].view(row), state["weight_zero_point"].view(row)
                self._weights[site.name] = recipe.weights(weight, scale, zero_point, bits.weight)
                module.weight = self._weights[site.name].weight
            elif not site.is_matmul:
                module.bias = transformed_layer(layer, state)[1]
            for operand, name in OPERANDS.items():
                if getattr(module, operand, None) is not None:
                    trained = self._trained(getattr(module, operand), name in state)
                    setattr(module, operand, trained)
                    if trained.scale.requires_grad:
                        self._scales[site.name, name] = trained.scale
            self.segment.quantized.replace_module(site.name, module)

    def _trained(self, format: nn.Module, trained: bool) -> nn.Module:
        if isinstance(format, AdaLogQuantizer):
            return TrainedAdaLog(format, self._dropping, trained)
        return TrainedAffine(format, self._dropping)

    def train(self, loss: BlockLoss, recipe: Recipe) -> None:
        """Train weights, or their rounding, and scales."""
        if not self.leaves or not recipe.iterations:
            self.segment.step(recipe.iterations)
            return
        (self.first_batch,) = self._batches(recipe, 0, 1)
        loss.prepare(self)
        weights, scales = list(self._weights.values()), list(self._scales.values())
        optimizers = [
            torch.optim.Adam(tensors, rate, foreach=True)
            for tensors, rate in (([one.trained for one in weights], recipe.weight_rate), (scales, recipe.scale_rate))
            if tensors
        ]
        smallest = [scale.detach() * SMALLEST_RELATIVE_SCALE for scale in scales]
        for step in range(recipe.iterations):
            loss.refresh(self, step)
            gradients = self._gradients(loss, recipe, step)
            beta = regularizer_exponent(step, recipe.iterations, recipe.warmup, *recipe.exponents)
            for trained, gradient in zip(weights, gradients, strict=False):
                trained.backward(gradient, recipe.regularization, beta)
            for scale, gradient in zip(scales, gradients[len(weights) :], strict=True):
                scale.grad = gradient
            if scales:
                optimizers[-1].param_groups[0]["lr"] = cosine(recipe.scale_rate, step, recipe.iterations)
            for optimizer in optimizers:
                optimizer.step()
            for trained in weights:
                trained.refresh()
            for scale, least in zip(scales, smallest, strict=True):
                scale.detach().copy_(torch.maximum(scale.detach(), least))
            self.segment.step(1)

    def _gradients(self, loss: BlockLoss, recipe: Recipe, step: int) -> list[Tensor]:
        """Gradients of a step's loss with respect to `leaves`."""
        segment, leaves = self.segment, self.leaves
        seed = self._seed(step)
        batches = self._batches(recipe, step, 2 if loss.of_clean_output else 1)

        def dropped(images: Tensor, generator: np.random.Generator) -> Tensor:
            inputs, others = segment.inputs[images], segment.full_precision_inputs[images]
            inputs = _mixed(inputs, others, generator, recipe.quantized_input)
            with self._dropping.drawn_from(generator):
                output = self.run(inputs)
            return each(loss, output, self.targets[images], images)

        def clean(images: Tensor, generator: np.random.Generator) -> Tensor:
            return loss.clean(self.run(segment.inputs[images]), images)

        pieces = [
            (term, images, (*seed, place, piece))
            for place, (term, batch) in enumerate(zip((dropped, clean), batches, strict=False))
            for piece, images in enumerate(batch.tensor_split(PIECES))
            if len(images)
        ]

        def of_piece(piece: tuple[Callable, Tensor, tuple[int, ...]]) -> tuple[Tensor, ...]:
            term, images, key = piece
            with torch.enable_grad():
                value = term(images, np.random.default_rng(key)).sum() / len(batches[0])
            return torch.autograd.grad(value, leaves)

        return added(self.workers.map(of_piece, pieces))

    def _batches(self, recipe: Recipe, step: int, count: int) -> list[Tensor]:
        """`count` batches drawn for one step, each of different images (as many as there are, at most)."""
        generator, inputs = np.random.default_rng(self._seed(step)), self.segment.inputs
        drawn = [generator.permutation(len(inputs))[: recipe.batch_size] for _ in range(count)]
        return [torch.from_numpy(batch).to(inputs.device) for batch in drawn]

    def _seed(self, step: int) -> tuple[int, ...]:
        return self.segment.seed, self.segment.index, step

    def states(self) -> States:
        """States of the sites after hardening."""
        found = {}
        for site, bits in self.segment.sites:
            state = dict(self._states[site.name])
            for name in OPERANDS.values():
                if (site.name, name) in self._scales:
                    state[name] = self._scales[site.name, name].detach().view_as(state[name])
            if site.name in self._weights:
                codes = self._weights[site.name].codes()
                state["weight_codes"] = codes.to(torch.uint8 if bits.weight <= 8 else torch.int32)
            found[site.name] = state
        return found


def _mixed(inputs: Pictures, others: Pictures, generator: np.random.Generator, probability: float) -> Pictures:
    """Elements of either, the first ones with the given probability."""
    if isinstance(inputs, Tensor):
        return mixed(inputs, others, generator, probability)
    return inputs.map(lambda x, other: mixed(x, other, generator, probability), others)


def cosine(rate: float, step: int, iterations: int) -> float:
    """Learning rate at a step, from `rate` to 0 along half a cosine."""
    return rate * (1 + math.cos(math.pi * step / iterations)) / 2


def added(gradients: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """Sums over pieces, in their order."""
    total = list(gradients[0])
    for piece in gradients[1:]:
        for sum_, gradient in zip(total, piece, strict=True):
            sum_.add_(gradient)
    return total
