"""A linear layer with quantized weights and inputs, simulated in floating point."""

from torch import Tensor, nn
from torch.nn import functional

from lampq.number_formats.weights import WeightFormat


class QuantizedLinear(nn.Module):
    """Linear layer whose weights are already quantized and whose input is quantized in every forward.

    A layer after a LayerNorm may be reparameterized: its input x becomes ``x / channel_scale - channel_shift``,
    and weight and bias are those that undo it (`lampq.reparameterization.layernorm`). The two vectors are applied
    here, at the layer's input, and not inside the LayerNorm: Swin pads its feature map with zeros between the two,
    and a shift inside the LayerNorm would leave those zeros behind.

    Args:
        weight: fake-quantized weight, ``[out channels, in channels]``.
        bias: ``[out channels]`` or None; never quantized.
        quantize_input: number format of the input, or None for full precision.
        channel_scale, channel_shift: the two vectors ``[in channels]``, r and t of the reparameterization; both or
            neither.
        weight_format: how the weights are coded; None for full precision.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        quantize_input: nn.Module | None = None,
        channel_scale: Tensor | None = None,
        channel_shift: Tensor | None = None,
        weight_format: WeightFormat | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.register_buffer("channel_scale", None if channel_scale is None else channel_scale.detach())
        self.register_buffer("channel_shift", None if channel_shift is None else channel_shift.detach())
        self.quantize_input = quantize_input
        self.weight_format = weight_format

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in channels] -> [..., out channels]``"""
        if self.channel_scale is not None:
            x = (x / self.channel_scale).sub_(self.channel_shift)
        if self.quantize_input is not None:
            x = self.quantize_input(x)
        return functional.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weight.shape
        return f"{in_channels}, {out_channels}, reparameterized={self.channel_scale is not None}"
