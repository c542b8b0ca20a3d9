"""PTQ4ViT: symmetric uniform formats, twin uniform ones after softmax and GELU, scales by a Hessian-guided search.

Yuan et al., PTQ4ViT: Post-Training Quantization for Vision Transformers with Twin Uniform Quantization, ECCV 2022.
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from lampq.base_quantizers.base import BaseQuantizer
from lampq.calibration.finite_inputs import check_finite
from lampq.calibration.output_gradients import LABELS
from lampq.calibration.parameter_search import Searched, search_layer, search_matmul, search_rows
from lampq.calibration.patches import patches
from lampq.errors import LampQError
from lampq.number_formats.twin_uniform import (
    PostGELUQuantizer,
    ProbabilityQuantizer,
    fake_quantize_overlapping,
    fake_quantize_post_gelu,
    fake_quantize_probabilities,
)
from lampq.number_formats.uniform import SymmetricQuantizer, fake_quantize_symmetric
from lampq.number_formats.weights import WeightFormat
from lampq.parts import setting
from lampq.plan.bits import Bits
from lampq.plan.sites import Site
from lampq.quantized_modules.convolution import QuantizedConvolution
from lampq.quantized_modules.linear import QuantizedLinear
from lampq.quantized_modules.matmul import QuantizedMatMul

SPLITS = 20
"""Splits of attention probabilities that are tried: 1, 1/2, 1/4 ..."""

WEIGHT_GROUPS = {"qkv": 3}
"""Scales of a layer's weights: one for each of queries, keys and values, one for any other linear layer."""


class PTQ4ViT(BaseQuantizer):
    """PTQ4ViT with a gradient that is well defined.

    Weights: one scale a tensor, three for qkv, one a row for the patch embedding. Inputs of linear layers: one scale
    a tensor. Queries, keys and values: one scale a head. Attention probabilities and post-GELU inputs: twin uniform.
    The image entering the patch embedding stays in full precision.

    The error that candidates are judged by is ``sum (g (O^ - O))^2``, g being the gradient of the loss at the output
    O. The authors' loss is the divergence of the model from itself, whose gradient is rounding noise; here it is
    -log p(label | image) at the model's own labels.

    Args:
        metric: ``hessian``, or ``mse``: every element of the output counts alike (g = 1).
        labels: of the loss, ``sampled`` from the model's predictions, or its ``most_likely`` class.
        candidates: scales tried in a search.
        rounds: how often the two operands of a product take turns.
        alpha, beta: candidates run from alpha to beta times the scale at which nothing is clipped, beta left out.
        literal: attention probabilities as in the authors' code, whose two regions overlap, and their split found with
            the values in full precision.

    Raises:
        LampQError: a value out of its range.
    """

    name = "ptq4vit"
    revision = 1
    minimum_bits = 2  # a twin format has two regions
    probability_entry = "a_split"  # of a state: what is searched for attention probabilities

    metric: Literal["hessian", "mse"] = "hessian"
    labels: str = setting("sampled", options=LABELS)
    candidates: int = setting(100, minimum=2, maximum=10_000)
    rounds: int = setting(3, minimum=1, maximum=100)
    alpha: float = setting(0.01, above=0)
    beta: float = setting(1.2, above=0)
    literal: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha >= self.beta:
            raise LampQError(f"base_quantizer.alpha={self.alpha}: must be below base_quantizer.beta={self.beta}")

    @property
    def gradient_labels(self) -> str | None:
        return self.labels if self.metric == "hessian" else None

    def settings(self) -> dict:
        return super().settings() | {"labels": self.gradient_labels}

    @torch.no_grad()
    def calibrate(
        self,
        site: Site,
        layer: nn.Module,
        inputs: tuple[Tensor, ...],
        bits: Bits,
        output_gradient: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Entries: ``weight_scale`` ``[1]``, for qkv ``[3]``, for the patch embedding ``[out channels]``;
        ``input_scale`` ``[1]`` (after GELU: of the positive values); for matmuls ``a_scale``, ``b_scale`` ``[heads]``,
        for pv ``a_split`` ``[1]`` in place of the former.

        Args:
            output_gradient: g, of the output's shape; without it every element counts alike.
        """
        check_finite(site, inputs if site.is_matmul else (*inputs, layer.weight))
        tried = self.operands(site, layer, inputs, bits)
        if not tried:
            return {}
        if site.is_matmul:
            full_second = self.literal and site.type == "pv"
            found = search_matmul(*inputs, output_gradient, *tried.values(), self.rounds, full_second)
            return dict(zip(tried, found, strict=True))
        weight = layer.weight.detach().flatten(1)
        if site.type == "patch_embed":
            gradient = None if output_gradient is None else output_gradient.flatten(2).mT.flatten(0, 1)
            x = patches(site, layer, inputs[0])
            return {"weight_scale": search_rows(weight, x, gradient, tried["weight_scale"])}
        gradient = None if output_gradient is None else output_gradient.flatten(0, -2)
        names = ("weight_scale", "input_scale")
        operands = (tried.get(name) for name in names)
        found = search_layer(weight, inputs[0].flatten(0, -2), gradient, *operands, self.rounds)
        return {name: parameter for name, parameter in zip(names, found, strict=True) if name in tried}

    @torch.no_grad()
    def quantized_module(self, site: Site, layer: nn.Module, state: dict[str, Tensor], bits: Bits) -> nn.Module:
        if site.is_matmul:
            if bits.activation is None:
                return QuantizedMatMul(None, None)
            b = _head_wise(state["b_scale"], bits.activation)
            if "a_split" in state:
                return QuantizedMatMul(ProbabilityQuantizer(state["a_split"], bits.activation, self.literal), b)
            return QuantizedMatMul(_head_wise(state["a_scale"], bits.activation), b)
        weight, coded, quantize = layer.weight.detach(), None, None
        if bits.weight is not None:
            coded = WeightFormat.of_state(SymmetricQuantizer, bits.weight, state)
            weight = coded.quantize(weight)
        if site.type == "patch_embed":
            return QuantizedConvolution(weight, layer, weight_format=coded)
        if bits.activation is not None:
            input_format = PostGELUQuantizer if site.after_gelu else SymmetricQuantizer
            quantize = input_format(state["input_scale"], bits.activation)
        return QuantizedLinear(weight, layer.bias, quantize, weight_format=coded)

    def operands(self, site: Site, layer: nn.Module, inputs: tuple[Tensor, ...], bits: Bits) -> dict[str, Searched]:
        """The operands of a site that are quantized, in the order of searching, by the entry that describes each."""
        if site.is_matmul:
            if bits.activation is None:
                return {}
            names = (self.probability_entry if site.type == "pv" else "a_scale", "b_scale")
            pairs = zip("ab", inputs, strict=True)
            searched = [self.searched(site, operand, x, bits.activation) for operand, x in pairs]
            return dict(zip(names, searched, strict=True))
        tried = {}
        if bits.weight is not None:
            tried["weight_scale"] = self.searched(site, "weight", layer.weight.detach().flatten(1), bits.weight)
        if bits.activation is not None and site.type != "patch_embed":
            tried["input_scale"] = self.searched(site, "input", inputs[0], bits.activation)
        return tried

    def searched(self, site: Site, operand: str, x: Tensor, bits: int) -> Searched:
        """What is tried for an operand of a site.

        Args:
            operand: ``weight``, ``input``, or ``a`` and ``b`` of a matmul.
            x: its values: ``[rows, inner]`` of weights, ``[images, heads, ...]`` of a matmul's operand.
        """
        if site.type == "pv" and operand == "a":
            splits = 2.0 ** -torch.arange(SPLITS, dtype=x.dtype, device=x.device)
            quantize = fake_quantize_overlapping if self.literal else fake_quantize_probabilities
            return Searched(splits[:1], splits[:, None], partial(quantize, bits=bits))
        quantize, largest = fake_quantize_symmetric, x.abs()
        if site.after_gelu and operand == "input":
            quantize, largest = fake_quantize_post_gelu, x
        if operand in ("a", "b"):
            largest = largest.transpose(0, 1).flatten(1).amax(1)
        elif operand == "weight":
            groups = len(x) if site.type == "patch_embed" else WEIGHT_GROUPS.get(site.type, 1)
            largest = largest.reshape(groups, -1).amax(1)
        else:
            largest = largest.amax().view(1)
        start = largest / (2 ** (bits - 1) - 0.5)
        start = torch.where(start > torch.finfo(start.dtype).tiny / self.alpha, start, torch.ones_like(start))
        return Searched(start, self.fractions(x)[:, None] * start, partial(quantize, bits=bits))

    def fractions(self, x: Tensor) -> Tensor:
        """What a scale is tried as, in multiples of the one at which nothing is clipped: ``[candidates]``, like `x`."""
        steps = torch.arange(self.candidates, dtype=x.dtype, device=x.device) / self.candidates
        return self.alpha + (self.beta - self.alpha) * steps


def _head_wise(scale: Tensor, bits: int) -> SymmetricQuantizer:
    """Symmetric format with parameters ``[heads]`` for operands ``[images, heads, rows, columns]``."""
    return SymmetricQuantizer(scale.view(-1, 1, 1), bits)
