"""AdaLog: adaptive logarithmic and uniform formats, their parameters searched on each layer's output error.

Wu et al., AdaLog: Post-Training Quantization for Vision Transformers with Adaptive Logarithm Quantizer, ECCV 2024.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from lampq.base_quantizers.base import BaseQuantizer
from lampq.calibration.alternating_search import AlternatingSearch, Parameters
from lampq.calibration.candidate_formats import BinaryFormat, CandidateFormat, UniformFormat
from lampq.calibration.candidates import (
    CandidateGrid,
    activation_zero_points,
    convolution_zero_points,
    uniform_grid,
    weight_zero_points,
)
from lampq.calibration.finite_inputs import check_finite
from lampq.calibration.patches import patches
from lampq.errors import LampQError
from lampq.number_formats.adalog import AdaLogQuantizer
from lampq.number_formats.binary import BinaryQuantizer
from lampq.number_formats.uniform import AffineQuantizer
from lampq.number_formats.weights import WeightFormat
from lampq.parts import setting
from lampq.plan.bits import Bits
from lampq.plan.sites import Site
from lampq.quantized_modules.convolution import QuantizedConvolution
from lampq.quantized_modules.linear import QuantizedLinear
from lampq.quantized_modules.matmul import QuantizedMatMul
from lampq.reparameterization.adalog_bias import GELU_SHIFT, absorb_shift
from lampq.reparameterization.layernorm import (
    reparameterize,
    transform_input,
    transform_layer,
    transformed_layer,
)

SMALLEST_CHANNEL_SCALE = 1e-4


class AdaLog(BaseQuantizer):
    """AdaLog without its block reconstruction ("calibrate only").

    Weights: one scale a row. Inputs of linear layers: one scale a tensor, after a LayerNorm reparameterized from one
    scale a channel. Queries, keys and values: one scale a head. Attention probabilities and post-GELU inputs:
    powers of an adaptive base. The image entering the patch embedding stays in full precision.

    Args:
        candidates: how many each pass of a search evaluates; a multiple of 16 from 32 to 1024.
        rounds: how often weights and inputs (or the two operands of a matmul) take turns.
        steps: passes of the progressive search, the coarse one included.
        elitist: let a search keep the best candidate it has seen; the published one forgets it.
        one_bit: values of one-bit weights: ``literal`` {0, s} as the authors' formula gives, ``symmetric`` {-s, s}.
        precision: in which inputs are observed and searched: ``float32``, where the last bits of both are the
            processor's and so, by near ties, are the parameters found; or ``float64``, which takes longer and finds
            the same parameters with other kernels too.

    Raises:
        LampQError: a value out of its range.
    """

    name = "adalog"
    revision = 2

    candidates: int = setting(128, minimum=32, maximum=1024)
    rounds: int = setting(3, minimum=1, maximum=100)
    steps: int = setting(6, minimum=1, maximum=20)
    elitist: bool = False
    one_bit: Literal["literal", "symmetric"] = "literal"
    precision: Literal["float32", "float64"] = setting("float32", identity="changed")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates % 16:
            raise LampQError(f"base_quantizer.candidates={self.candidates}: must be a multiple of 16, for example 128")
        self.alternating_search = AlternatingSearch(self.candidates, self.rounds, self.steps, self.elitist)

    @torch.no_grad()
    def calibrate(self, site: Site, layer: nn.Module, inputs: tuple[Tensor, ...], bits: Bits) -> dict[str, Tensor]:
        """Entries: ``weight_scale``, ``weight_zero_point`` ``[out channels]``; ``input_scale``, ``input_zero_point``
        or (after GELU) ``input_log_base`` (scalars); after a LayerNorm ``channel_scale``, ``channel_shift``
        ``[in channels]``; for matmuls ``a_scale``, ``a_zero_point`` or (pv) ``a_log_base``, and ``b_scale``,
        ``b_zero_point``, ``[heads]``."""
        check_finite(site, inputs)
        if site.is_matmul:
            return {} if bits.activation is None else self._stored(self.search_matmul(site, *inputs, bits.activation))
        check_finite(site, (layer.weight,))
        if site.type == "patch_embed":
            return self._calibrate_convolution(site, layer, inputs[0], bits.weight)
        x = inputs[0].flatten(0, -2)
        weight = layer.weight.detach().to(inputs[0].dtype)
        state = {}
        if site.after_layernorm and bits.activation is not None:
            channel_scale, channel_shift = self._reparameterize(x, bits.activation)
            x = transform_input(x, channel_scale, channel_shift)
            weight, _ = transform_layer(weight, None, channel_scale, channel_shift)
            state |= {"channel_scale": channel_scale, "channel_shift": channel_shift}
        weight_format = weight_grid = None
        if bits.weight is not None:
            zero_points = self.weight_zero_points(bits.weight)
            weight_format, weight_grid = self._weight_candidates(weight, bits.weight, zero_points)
        state |= self.search_layer(site, weight, x, weight_format, weight_grid, bits.activation)
        return self._stored({name: tensor.clone() for name, tensor in state.items()})

    def _stored(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state in the precision of the quantized model."""
        return state if self.precision == "float32" else {name: tensor.float() for name, tensor in state.items()}

    def weight_zero_points(self, bits: int) -> list[int]:
        """Zero points that are tried for the weights of linear layers."""
        return weight_zero_points(bits)

    def search_layer(
        self,
        site: Site,
        weight: Tensor,
        x: Tensor,
        weight_format: CandidateFormat | None,
        weight_grid: CandidateGrid | None,
        activation_bits: int | None,
    ) -> dict[str, Tensor]:
        """Scales and their partners of a linear layer ``[out channels, in channels]`` and its input
        ``[samples, in channels]``; None for what stays in full precision."""
        arguments = (weight, x, weight_format, weight_grid, activation_bits)
        if site.after_gelu:
            return layer_state(*self.alternating_search.post_gelu_layer(*arguments, GELU_SHIFT), "log_base")
        return layer_state(*self.alternating_search.layer(*arguments), "zero_point")

    @torch.no_grad()
    def quantized_module(self, site: Site, layer: nn.Module, state: dict[str, Tensor], bits: Bits) -> nn.Module:
        if site.is_matmul:
            if bits.activation is None:
                return QuantizedMatMul(None, None)
            if "a_log_base" in state:
                one = torch.ones_like(state["a_log_base"])
                quantize_a = AdaLogQuantizer(one, state["a_log_base"], bits.activation)
            else:
                quantize_a = _head_wise(state["a_scale"], state["a_zero_point"], bits.activation)
            return QuantizedMatMul(quantize_a, _head_wise(state["b_scale"], state["b_zero_point"], bits.activation))
        weight, bias = transformed_layer(layer, state)
        coded = None
        if bits.weight is not None:
            binary = bits.weight == 1 and self.one_bit == "symmetric" and "weight_codes" not in state
            coded = WeightFormat.of_state(BinaryQuantizer if binary else AffineQuantizer, bits.weight, state)
            weight = coded.quantize(weight, state.get("weight_codes"))
        if site.type == "patch_embed":
            return QuantizedConvolution(weight, layer, weight_format=coded)
        if bits.activation is None:
            return QuantizedLinear(weight, bias, weight_format=coded)
        if "input_log_base" in state:
            # The shift is added inside the number format, and never subtracted: the bias has absorbed it.
            quantize = AdaLogQuantizer(state["input_scale"], state["input_log_base"], bits.activation, GELU_SHIFT)
            return QuantizedLinear(weight, absorb_shift(weight, bias), quantize, weight_format=coded)
        quantize = AffineQuantizer(state["input_scale"], state["input_zero_point"], bits.activation)
        return QuantizedLinear(weight, bias, quantize, state.get("channel_scale"), state.get("channel_shift"), coded)

    def search_matmul(self, site: Site, a: Tensor, b: Tensor, bits: int) -> dict[str, Tensor]:
        """Scales and their partners of the operands of an attention matmul."""
        if site.type == "qk":
            first, second = self.alternating_search.attention_scores(a, b.mT, bits)
            state = {"a_scale": first[0], "a_zero_point": first[1]}
        else:
            base, second = self.alternating_search.attention_output(a, b, bits)
            state = {"a_log_base": base[0].clone()}
        return state | {"b_scale": second[0], "b_zero_point": second[1]}

    def _calibrate_convolution(
        self, site: Site, layer: nn.Conv2d, images: Tensor, weight_bits: int | None
    ) -> dict[str, Tensor]:
        """The convolution as a linear layer on patches; one search of its weights, inputs in full precision."""
        if weight_bits is None:
            return {}
        zero_points = convolution_zero_points(weight_bits, self.alternating_search.candidates)
        x = patches(site, layer, images)
        weight = layer.weight.detach().flatten(1).to(x.dtype)
        weight_format, grid = self._weight_candidates(weight, weight_bits, zero_points)
        (scale, zero_point), _ = self.alternating_search.layer(weight, x, weight_format, grid, None)
        return self._stored({"weight_scale": scale, "weight_zero_point": zero_point})

    def _reparameterize(self, x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """Channel-wise search on the LayerNorm's output ``[samples, channels]``, turned into r and t."""
        ascending = torch.sort(x.T.contiguous(), dim=1).values
        candidates = self.alternating_search.candidates
        grid = uniform_grid(ascending, bits, activation_zero_points(bits), candidates, SMALLEST_CHANNEL_SCALE)
        found = reparameterize(*self.alternating_search.on_itself(UniformFormat(bits), ascending, grid))
        if self.precision == "float32":
            return found.channel_scale, found.channel_shift
        # What is searched behind them has to be what the quantized model will be given.
        return found.channel_scale.float().double(), found.channel_shift.float().double()

    def _weight_candidates(
        self, weight: Tensor, bits: int, zero_points: list[int]
    ) -> tuple[CandidateFormat, CandidateGrid]:
        ascending = torch.sort(weight, dim=1).values
        grid = uniform_grid(ascending, bits, zero_points, self.alternating_search.candidates)
        if bits == 1 and self.one_bit == "symmetric":
            # The range is the distance of the two values: each is half of it away from zero.
            halved = replace(
                grid, scales=grid.scales / 2, spacing=grid.spacing / 2, smallest_scale=grid.smallest_scale / 2
            )
            return BinaryFormat(), halved
        return UniformFormat(bits), grid


def layer_state(weights: Parameters | None, activations: Parameters | None, partner: str) -> dict[str, Tensor]:
    """What a search has found for a linear layer as an entry's tensors; `partner` names that of the input's scale."""
    state = {}
    if weights is not None:
        state |= {"weight_scale": weights[0], "weight_zero_point": weights[1]}
    if activations is not None:
        state |= {"input_scale": activations[0][0], f"input_{partner}": activations[1][0]}
    return state


def _head_wise(scale: Tensor, zero_point: Tensor, bits: int) -> AffineQuantizer:
    """Affine format with parameters ``[heads]`` for operands ``[images, heads, rows, columns]``."""
    return AffineQuantizer(scale.view(-1, 1, 1), zero_point.view(-1, 1, 1), bits)
