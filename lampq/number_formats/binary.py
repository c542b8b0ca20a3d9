"""Binary numbers: one bit that is a sign."""

import torch
from torch import Tensor

from lampq.number_formats.base import NumberFormat


def fake_quantize_binary(x: Tensor, scale: Tensor) -> Tensor:
    """``scale`` where x is positive or zero, ``-scale`` where it is negative; `scale` broadcasts against `x`."""
    return torch.where(x >= 0, scale, -scale)


class BinaryQuantizer(NumberFormat):
    """One bit that is a sign: code 1 is ``scale``, code 0 is ``-scale``.

    Args:
        scale: the larger of the two values, broadcastable against the tensors that will be quantized.
        bits: 1.
    """

    name = "binary"

    def __init__(self, scale: Tensor, bits: int = 1) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", scale.detach().clone())

    def codes(self, x: Tensor) -> Tensor:
        return (x >= 0).to(torch.int32)

    def dequantize(self, codes: Tensor) -> Tensor:
        return torch.where(codes > 0, self.scale, -self.scale)

    def integers(self, codes: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(2 * codes.double() - 1, self.scale)]
