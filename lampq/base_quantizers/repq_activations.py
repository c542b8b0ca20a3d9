"""How RepQ-ViT quantizes activations, which OPTQ and ERQ on Vision Transformers take over; weights are theirs.

Li et al., RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision Transformers, ICCV 2023.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from lampq.base_quantizers.base import SEARCHES, BaseQuantizer
from lampq.calibration.channel_range import bound_channels
from lampq.calibration.finite_inputs import check_finite
from lampq.calibration.patches import patches
from lampq.calibration.percentile_clipping import affine_between, clipped_log_scale, clipped_range
from lampq.calibration.segment import Segment, States
from lampq.errors import LampQError
from lampq.limits import choice, number, shown
from lampq.number_formats.log_sqrt2 import LogSqrt2Quantizer
from lampq.number_formats.uniform import AffineQuantizer
from lampq.number_formats.weights import WeightFormat
from lampq.parts import setting
from lampq.plan.bits import Bits
from lampq.plan.sites import Site
from lampq.quantized_modules.convolution import QuantizedConvolution
from lampq.quantized_modules.linear import QuantizedLinear
from lampq.quantized_modules.matmul import QuantizedMatMul
from lampq.reparameterization.layernorm import reparameterize, transform_input, transform_layer


def channel_bound(key: str, value: str | float) -> str | float:
    """``iqr``, or a fraction of the channels (`lampq.calibration.channel_range`).

    Raises:
        LampQError: it is neither.
    """
    if isinstance(value, str):
        return choice(key, value, ("iqr",))
    try:
        return number(key, value, above=0.5, at_most=1)
    except LampQError:
        message = f"{key}={shown(value)}: must be iqr or a fraction of the channels above 0.5, for example 0.99"
        raise LampQError(message) from None


@dataclass(frozen=True)
class LinearProblem:
    """What weights are quantized for: a linear layer (or a convolution seen as one) and what reaches it.

    Attributes:
        site, layer: the site and its full-precision module.
        weight: ``[out channels, in channels]``, after the reparameterization of a LayerNorm before it.
        bias: ``[out channels]`` or None, likewise.
        inputs: what the layer is fed, likewise, in the layer's own shape.
        quantize: number format of the inputs, or None for full precision.
    """

    site: Site
    layer: nn.Module
    weight: Tensor
    bias: Tensor | None
    inputs: Tensor
    quantize: nn.Module | None

    def rows(self) -> Tensor:
        """Inputs, ``[samples, in channels]``."""
        return self._rows(self.inputs)

    def quantized_rows(self) -> Tensor:
        """What the layer multiplies with: inputs in their number format, ``[samples, in channels]``."""
        return self._rows(self.inputs if self.quantize is None else self.quantize(self.inputs))

    def _rows(self, inputs: Tensor) -> Tensor:
        if isinstance(self.layer, nn.Conv2d):
            return patches(self.site, self.layer, inputs)
        return inputs.flatten(0, -2)


class RepQActivations(BaseQuantizer):
    """RepQ-ViT's activations, without its weights.

    Inputs of linear layers, queries, keys and values: one uniform asymmetric format a tensor. Inputs that come from a
    LayerNorm: one a channel, reparameterized into one a tensor. Attention probabilities: powers of sqrt 2. All of them
    cover the range between two percentiles that has the least squared error.

    A subclass finds weights in `calibrate_weight`.

    Args:
        inputs: what activations are observed on: ``quantized``, the network as it is quantized up to the site, or
            ``full_precision``, which makes every site independent of all others.
        search: with quantized inputs, what plans are scored with: ``surrogate`` (independent sites), ``block_bank`` or
            ``exact``.
        literal: take one value more than the bits can tell apart, twice, as the authors' code does: the zero of the
            probabilities beside 2^bits powers, and a zero point after reparameterization that is not an integer.
        image_bits: bits of the image that enters the patch embedding, whatever the plan; None for full precision.
        channel_bound: bound of a channel's range by those of all channels, before reparameterization: None,
            ``iqr`` or a fraction (`lampq.calibration.channel_range`).

    Raises:
        LampQError: a value out of its range.
    """

    minimum_bits, maximum_bits = 2, 8
    starts_from_bank = False

    weights_on_full_precision = False
    """Whether weights are fitted to inputs of the full-precision network, whatever activations are observed on."""

    inputs: Literal["quantized", "full_precision"] = "quantized"
    search: str = setting("surrogate", options=SEARCHES, identity="never")
    literal: bool = False
    image_bits: int | None = setting(8, minimum=minimum_bits, maximum=maximum_bits, identity="never")
    channel_bound: str | float | None = setting(None, check=channel_bound)

    @property
    def sequential(self) -> bool:
        return self.inputs == "quantized"

    @property
    def independent(self) -> "RepQActivations":
        """The same method on full-precision inputs."""
        if not self.sequential:
            return self
        return replace(self, inputs="full_precision")

    def reparameterizes(self, site: Site) -> bool:
        """Whether the input of a layer after a LayerNorm is reparameterized."""
        return site.after_layernorm

    @abstractmethod
    def calibrate_weight(self, problem: LinearProblem, bits: int) -> dict[str, Tensor]:
        """Entries that the weights need: names begin with ``weight_``, or are ``bias``."""

    @torch.no_grad()
    def calibrate(self, site: Site, layer: nn.Module, inputs: tuple[Tensor, ...], bits: Bits) -> dict[str, Tensor]:
        """Entries: ``input_scale``, ``input_zero_point`` (scalars); after a LayerNorm ``channel_scale``,
        ``channel_shift`` ``[in channels]``; for matmuls ``a_scale``, ``b_scale``, ``b_zero_point`` and (qk)
        ``a_zero_point`` (scalars); and what the method's weights need."""
        return self._calibrate(site, layer, inputs, inputs, bits)

    @torch.no_grad()
    def quantized_module(self, site: Site, layer: nn.Module, state: dict[str, Tensor], bits: Bits) -> nn.Module:
        if site.is_matmul:
            if bits.activation is None:
                return QuantizedMatMul(None, None)
            a, b = (_affine(state, name, bits.activation) for name in ("a", "b"))
            if site.type == "pv":
                a = LogSqrt2Quantizer(state["a_scale"], bits.activation, extra_zero=self.literal)
            return QuantizedMatMul(a, b)
        weight, bias = self._transformed(layer, state)
        coded = None
        if bits.weight is not None:
            coded = WeightFormat.of_state(AffineQuantizer, bits.weight, state)
            weight, bias = coded.quantize(weight, state.get("weight_codes")), state.get("bias", bias)
        quantize = None if bits.activation is None else _affine(state, "input", bits.activation)
        if isinstance(layer, nn.Conv2d):
            return QuantizedConvolution(weight.view_as(layer.weight), layer, quantize, bias, coded)
        return QuantizedLinear(weight, bias, quantize, state.get("channel_scale"), state.get("channel_shift"), coded)

    @torch.no_grad()
    def realise_segment(self, segment: Segment) -> States:
        """Site by site, each on what reaches it with everything before it quantized."""
        states = {}
        for site, bits in segment.sites:
            layer, observed = segment.full_precision.module(site.name), segment.observe(site.name)
            fitted = observed
            if self.weights_on_full_precision and not site.is_matmul:
                fitted = segment.observe(site.name, full_precision=True)
            states[site.name] = self._calibrate(site, layer, observed, fitted, bits)
            segment.place(site.name, states[site.name])
        return states

    def channel_wise_module(
        self, layer: nn.Linear, weight: Tensor, state: dict[str, Tensor], activation_bits: int
    ) -> QuantizedLinear:
        """A layer after a LayerNorm before its reparameterization: one input format a channel, and this weight."""
        scale = state["input_scale"] * state["channel_scale"]
        zero_point = torch.round(state["input_zero_point"] - state["channel_shift"] / state["input_scale"])
        return QuantizedLinear(weight, layer.bias, AffineQuantizer(scale, zero_point, activation_bits))

    def _calibrate(
        self, site: Site, layer: nn.Module, observed: tuple[Tensor, ...], fitted: tuple[Tensor, ...], bits: Bits
    ) -> dict[str, Tensor]:
        """As `calibrate`; activations on what was `observed`, weights fitted to the inputs `fitted`."""
        check_finite(site, observed)
        state = {} if bits.activation is None else self._activations(site, observed, bits.activation)
        if not site.is_matmul and bits.weight is not None:
            check_finite(site, (layer.weight,))
            state |= self.calibrate_weight(self._problem(site, layer, fitted[0], state, bits.activation), bits.weight)
        return {name: tensor.clone() for name, tensor in state.items()}

    def _activations(self, site: Site, inputs: tuple[Tensor, ...], bits: int) -> dict[str, Tensor]:
        if site.is_matmul:
            a, b = inputs
            if site.type == "pv":
                first = {"a_scale": clipped_log_scale(a, bits, self.literal)}
            else:
                first = _per_tensor("a", a, bits)
            return first | _per_tensor("b", b, bits)
        if not self.reparameterizes(site):
            return _per_tensor("input", inputs[0], bits)
        scale, zero_point = self._channel_wise(inputs[0].flatten(0, -2).T.contiguous(), bits)
        found = reparameterize(scale, zero_point, fractional_zero_point=self.literal)
        return {
            "input_scale": found.scale,
            "input_zero_point": found.zero_point,
            "channel_scale": found.channel_scale,
            "channel_shift": found.channel_shift,
        }

    def _channel_wise(self, channels: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every channel of ``[channels, samples]``."""
        low, high = clipped_range(channels, bits)
        if self.channel_bound is not None:
            low, high = bound_channels(low, high, self.channel_bound)
        scale, zero_point = affine_between(low, high, bits)
        # A channel of zeros fits any scale: an unusual one would only stretch its weights.
        dead = (low == 0) & (high == 0)
        if dead.any() and not dead.all():
            scale = torch.where(dead, scale[~dead].mean(), scale)
        return scale, zero_point

    def _transformed(self, layer: nn.Module, state: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        weight, bias = layer.weight.detach().flatten(1), layer.bias
        if "channel_scale" not in state:
            return weight, None if bias is None else bias.detach()
        return transform_layer(weight, bias, state["channel_scale"], state["channel_shift"])

    def _problem(
        self, site: Site, layer: nn.Module, inputs: Tensor, state: dict[str, Tensor], activation_bits: int | None
    ) -> LinearProblem:
        if "channel_scale" in state:
            inputs = transform_input(inputs, state["channel_scale"], state["channel_shift"])
        quantize = None if activation_bits is None else _affine(state, "input", activation_bits)
        return LinearProblem(site, layer, *self._transformed(layer, state), inputs, quantize)


def _per_tensor(name: str, x: Tensor, bits: int) -> dict[str, Tensor]:
    scale, zero_point = affine_between(*clipped_range(x.reshape(1, -1), bits), bits)
    return {f"{name}_scale": scale[0], f"{name}_zero_point": zero_point[0]}


def _affine(state: dict[str, Tensor], name: str, bits: int) -> AffineQuantizer | None:
    if f"{name}_zero_point" not in state:
        return None
    return AffineQuantizer(state[f"{name}_scale"], state[f"{name}_zero_point"], bits)
