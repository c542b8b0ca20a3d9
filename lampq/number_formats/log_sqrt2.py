"""Log sqrt 2 numbers: powers of the square root of one half, decoded by a shift and the parity of the code.

Li et al., RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision Transformers, ICCV 2023.
"""

import math

import torch
from torch import Tensor, nn

from lampq.number_formats.uniform import check_bits


def log_sqrt2_levels(bits: int, extra_zero: bool = False) -> Tensor:
    """Values of all codes at scale 1, float64: ``2^(-ceil(c / 2))``, times sqrt 2 for an odd c; the last one is zero.

    Args:
        bits: 1 to 16.
        extra_zero: zero is a code beyond the ``2^bits`` powers, as in the authors' code, which so has one value more
            than its bits can tell apart: ``[2^bits + 1]``. Otherwise zero takes the place of the smallest power:
            ``[2^bits]``.
    """
    codes = torch.arange(2**bits - (not extra_zero))
    powers = torch.exp2(-torch.ceil(codes.double() / 2)) * torch.where(codes % 2 == 1, math.sqrt(2), 1.0).double()
    return torch.cat([powers, powers.new_zeros(1)])


def log_sqrt2_codes(x: Tensor, scale: Tensor, zero_code: int) -> Tensor:
    """Codes ``round(-2 log2(x / scale))`` as floating point numbers, from 0 to `zero_code`, which stands for zero.

    Values above the scale have code 0, values of zero and below `zero_code`.
    """
    return torch.round(torch.log2((x / scale).clamp_(min=0)).mul_(-2)).clamp_(0, zero_code)


class LogSqrt2Quantizer(nn.Module):
    """Logarithmic format for values that are not negative, base ``2^(-1/2)``.

    Args:
        scale: largest value, a scalar.
        bits: 1 to 16.
        extra_zero: see `log_sqrt2_levels`.

    Raises:
        LampQError: bits out of range.
    """

    def __init__(self, scale: Tensor, bits: int, extra_zero: bool = False) -> None:
        super().__init__()
        check_bits(bits)
        self.bits = bits
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("levels", log_sqrt2_levels(bits, extra_zero).to(scale))

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes of `x` (int32), same shape; the largest one stands for zero."""
        return log_sqrt2_codes(x, self.scale, len(self.levels) - 1).to(torch.int32)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Values of integer codes, same shape."""
        return torch.index_select(self.levels, 0, codes.reshape(-1)).view(codes.shape).mul_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """`x` after quantization and dequantization, same shape."""
        return self.dequantize(self.codes(x))

    def extra_repr(self) -> str:
        return f"bits={self.bits}, values={len(self.levels)}"
