"""Scale reparameterization of a LayerNorm's output: channel-wise quantization at the price of a per-tensor one.

Li et al., RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision Transformers, ICCV 2023.
"""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class LayerNormReparameterization:
    """How the input of a layer after a LayerNorm is transformed: ``x / channel_scale - channel_shift``.

    Attributes:
        channel_scale: r, ``[channels]``.
        channel_shift: t, ``[channels]``.
        scale, zero_point: per-tensor parameters (scalars) that, on the transformed input, give exactly the codes
            that the channel-wise ones give on the original.
    """

    channel_scale: Tensor
    channel_shift: Tensor
    scale: Tensor
    zero_point: Tensor


def reparameterize(
    channel_scale: Tensor, channel_zero_point: Tensor, fractional_zero_point: bool = False
) -> LayerNormReparameterization:
    """From channel-wise quantizer parameters to one scale, one zero point and the transformation between them.

    With s, z the means over channels (z rounded to an integer): ``r = s_c / s`` and ``t = s (z - z_c)``.

    Args:
        channel_scale, channel_zero_point: affine parameters of every channel, ``[channels]``.
        fractional_zero_point: do not round z, as in the authors' code. Codes are then no integers: the two ends of
            the range are one more value than the bits can tell apart, and the channel-wise codes are not kept.
    """
    scale = channel_scale.mean()
    zero_point = channel_zero_point.mean()
    if not fractional_zero_point:
        zero_point = zero_point.round()
    return LayerNormReparameterization(
        channel_scale=channel_scale / scale,
        channel_shift=scale * (zero_point - channel_zero_point),
        scale=scale,
        zero_point=zero_point,
    )


def transform_input(x: Tensor, channel_scale: Tensor, channel_shift: Tensor) -> Tensor:
    """``x / r - t`` for x ``[..., channels]``."""
    return x / channel_scale - channel_shift


def transform_layer(
    weight: Tensor, bias: Tensor | None, channel_scale: Tensor, channel_shift: Tensor
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer that gives on the transformed input what the original gives on the original.

    ``weight diag(r)`` and ``bias + weight diag(r) t``; a layer without bias gets one.

    Args:
        weight: ``[out channels, in channels]``.
        bias: ``[out channels]`` or None.
    """
    weight = weight * channel_scale
    shift = weight @ channel_shift
    return weight, shift if bias is None else bias + shift


def transformed_layer(layer: nn.Module, state: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias before quantization: the layer's own or, in a realised state, those that it was trained to
    (``weight``, ``bias``), after the reparameterization of the LayerNorm before it."""
    weight, bias = layer.weight.detach(), layer.bias
    if "channel_scale" in state:
        weight, bias = transform_layer(weight, bias, state["channel_scale"], state["channel_shift"])
    return state.get("weight", weight), state.get("bias", bias)
