"""AdaLog numbers: powers of an adaptive base, decoded by a shift and a small table.

Wu et al., AdaLog: Post-Training Quantization for Vision Transformers with Adaptive Logarithm Quantizer, ECCV 2024.
"""

import torch
from torch import Tensor

from lampq.errors import LampQError
from lampq.number_formats.base import LARGEST_EXPONENT, NumberFormat, check_bits, of_table

BASE_DENOMINATOR = 37
"""r: the base is ``2^(-q / r)``. q = 37 is log2, q = 18.5 would be log sqrt 2."""

SMALLEST_RATIO = 1e-15
"""Ratios x / scale below this one are treated as this one, so that the logarithm exists."""

GELU_SHIFT = 0.16997124254703522
"""Minus the minimum of GELU (the authors' value, 4e-8 above it): makes every post-GELU activation non-negative."""


def adalog_shifts(log_base: Tensor, bits: int) -> Tensor:
    """Right shift ``floor(c q / r)`` of every code c, int64 ``[2^bits]``."""
    codes = torch.arange(2**bits, device=log_base.device)
    return codes * log_base.round().long() // BASE_DENOMINATOR


def adalog_table(log_base: Tensor, bits: int) -> Tensor:
    """Numerators of the table T of every code c, int64 ``[2^bits]``; the denominator is ``2^(bits + 1) - 2``.

    ``T[c] = round(2^(-((c q) mod r) / r) * (2^(bits + 1) - 2)) / (2^(bits + 1) - 2)``
    """
    codes = torch.arange(2**bits, device=log_base.device)
    remainder = (codes * log_base.round().long()) % BASE_DENOMINATOR
    return torch.round(torch.exp2(-remainder.double() / BASE_DENOMINATOR) * (2 ** (bits + 1) - 2)).long()


def adalog_levels(log_base: Tensor, bits: int) -> Tensor:
    """Values of all codes at scale 1, float64 ``[2^bits + 1]``; the last is the zero of what is too small.

    The format therefore has ``2^bits + 1`` different values: an exact zero beside ``2^bits`` powers, as in the
    authors' method.
    """
    table = adalog_table(log_base, bits).double() / (2 ** (bits + 1) - 2)
    powers = torch.exp2(-adalog_shifts(log_base, bits).double()) * table
    return torch.cat([powers, powers.new_zeros(1)])


class AdaLogQuantizer(NumberFormat):
    """Logarithmic format with base ``2^(-q / 37)``, q an integer.

    ``code = round(-(37 / q) log2(clip((x + shift) / scale, 1e-15, 1)))``; codes of ``2^bits`` and more are the
    value zero, the others ``scale * T[code] >> shift[code]`` (`adalog_levels`).

    Args:
        scale: largest value, a scalar.
        log_base: q, a scalar.
        bits: 1 to 16.
        shift: added to the input first, so that it is not negative (post-GELU inputs).
        offset: subtracted from the value; equal to `shift` to undo it here, 0 where the consuming layer's bias does
            (`lampq.reparameterization.adalog_bias`).

    Raises:
        LampQError: bits out of range.
    """

    name = "adalog"
    tensors = ("scale", "log_base")
    constants = ("bits", "shift", "offset")

    def __init__(self, scale: Tensor, log_base: Tensor, bits: int, shift: float = 0.0, offset: float = 0.0) -> None:
        super().__init__()
        check_bits(bits)
        self.bits = bits
        self.shift = shift
        self.offset = offset
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("log_base", log_base.detach().clone())
        self.register_buffer("levels", adalog_levels(log_base.detach(), bits).to(scale.dtype))

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes of `x` (int32), same shape; ``2^bits`` stands for the exact zero."""
        # In place: new memory costs more than the arithmetic. Attention probabilities have no shift.
        ratio = (x + self.shift).div_(self.scale) if self.shift else x / self.scale
        codes = ratio.clamp_(SMALLEST_RATIO, 1).log2_().mul_(-BASE_DENOMINATOR / self.log_base).round_()
        return codes.clamp_(max=2**self.bits).to(torch.int32)

    def code_range(self) -> tuple[int, int]:
        return 0, 2**self.bits

    def dequantize(self, codes: Tensor) -> Tensor:
        """Values of integer codes, same shape."""
        return of_table(self.levels * self.scale - self.offset, codes)

    def integers(self, codes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Entries of the table, shifted to the left by how much less than the largest shift theirs is."""
        if self.offset:
            raise LampQError("an offset that is subtracted here leaves no whole steps; let the bias absorb it")
        shifts = adalog_shifts(self.log_base, self.bits)
        largest = int(shifts.max())
        if largest + self.bits + 1 > LARGEST_EXPONENT:
            raise LampQError(f"powers down to 2^-{largest} are no whole steps of {LARGEST_EXPONENT} bits")
        numbers = adalog_table(self.log_base, self.bits).double() * torch.exp2(largest - shifts.double())
        step = self.scale / (2 ** (self.bits + 1) - 2) * 2.0**-largest
        return [(of_table(torch.cat([numbers, numbers.new_zeros(1)]), codes), step)]

    def extra_repr(self) -> str:
        return f"bits={self.bits}, log_base={self.log_base.item():g}"
