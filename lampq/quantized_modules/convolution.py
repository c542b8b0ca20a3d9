"""A convolution with quantized weights and, if asked, a quantized input, simulated in floating point."""

from torch import Tensor, nn
from torch.nn import functional

from lampq.number_formats.weights import WeightFormat
from lampq.quantized_modules.linear import QuantizedLinear


class QuantizedConvolution(nn.Module):
    """Convolution (the patch embedding of a ViT) whose weights are already quantized.

    Args:
        weight: fake-quantized weight, ``[out channels, in channels / groups, height, width]``.
        convolution: the full-precision layer: its bias, stride, padding, dilation and groups are taken over.
        quantize_input: number format of the input, or None for full precision.
        bias: a bias ``[out channels]`` in place of the layer's own.
        weight_format: how the weights are coded; None for full precision.
    """

    def __init__(
        self,
        weight: Tensor,
        convolution: nn.Conv2d,
        quantize_input: nn.Module | None = None,
        bias: Tensor | None = None,
        weight_format: WeightFormat | None = None,
    ) -> None:
        super().__init__()
        bias = convolution.bias if bias is None else bias
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.quantize_input = quantize_input
        self.weight_format = weight_format
        self.stride = convolution.stride
        self.padding = convolution.padding
        self.dilation = convolution.dilation
        self.groups = convolution.groups

    @classmethod
    def of_rows(cls, linear: QuantizedLinear, convolution: nn.Conv2d) -> "QuantizedConvolution":
        """The convolution that a quantized linear layer on its rows stands for (`lampq.calibration.rows`).

        Its input is quantized element by element, before the padding: zeros around a map stay zeros.
        """
        weight = linear.weight.view_as(convolution.weight)
        return cls(weight, convolution, linear.quantize_input, linear.bias, linear.weight_format)

    def forward(self, x: Tensor) -> Tensor:
        """``[images, in channels, height, width] -> [images, out channels, height, width]``"""
        if self.quantize_input is not None:
            x = self.quantize_input(x)
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        out_channels, in_channels, height, width = self.weight.shape
        return f"{in_channels}, {out_channels}, kernel_size=({height}, {width}), stride={self.stride}"
