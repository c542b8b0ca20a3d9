"""Log sqrt 2 numbers: powers of the square root of one half, decoded by a shift and the parity of the code.

Li et al., RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision Transformers, ICCV 2023.
"""

import math

import torch
from torch import Tensor

from lampq.errors import LampQError
from lampq.number_formats.base import LARGEST_EXPONENT, NumberFormat, check_bits, of_table


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
    return (x / scale).clamp_(min=0).log2_().mul_(-2).round_().clamp_(0, zero_code)


class LogSqrt2Quantizer(NumberFormat):
    """Logarithmic format for values that are not negative, base ``2^(-1/2)``.

    Args:
        scale: largest value, a scalar.
        bits: 1 to 16.
        extra_zero: see `log_sqrt2_levels`.

    Raises:
        LampQError: bits out of range.
    """

    name = "log_sqrt2"
    constants = ("bits", "extra_zero")

    def __init__(self, scale: Tensor, bits: int, extra_zero: bool = False) -> None:
        super().__init__()
        check_bits(bits)
        self.bits, self.extra_zero = bits, extra_zero
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("levels", log_sqrt2_levels(bits, extra_zero).to(scale))

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes of `x` (int32), same shape; the largest one stands for zero."""
        return log_sqrt2_codes(x, self.scale, len(self.levels) - 1).to(torch.int32)

    def code_range(self) -> tuple[int, int]:
        return 0, len(self.levels) - 1

    def dequantize(self, codes: Tensor) -> Tensor:
        """Values of integer codes, same shape."""
        return of_table(self.levels * self.scale, codes)

    def integers(self, codes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Powers of two of the even codes, and those of the odd ones, whose step is sqrt 2 times as large."""
        numbers = torch.arange(len(self.levels), device=self.levels.device)
        shifts = (numbers + 1) // 2
        largest = int(shifts.max())
        if largest > LARGEST_EXPONENT:
            raise LampQError(f"powers down to 2^-{largest} are no whole steps of {LARGEST_EXPONENT} bits")
        powers = torch.exp2((largest - shifts).double()) * (numbers < len(numbers) - 1)
        step = self.scale * 2.0**-largest
        even, odd = (of_table(powers * (numbers % 2 == parity), codes) for parity in (0, 1))
        return [(even, step), (odd, step * math.sqrt(2))]

    def extra_repr(self) -> str:
        return f"bits={self.bits}, values={len(self.levels)}"
