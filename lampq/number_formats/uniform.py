"""Uniform numbers: integer codes a constant step apart, with a zero point (affine) or around zero (symmetric)."""

import torch
from torch import Tensor

from lampq.errors import LampQError
from lampq.number_formats.base import NumberFormat, check_bits


def affine_codes(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Codes ``clip(round(x / scale) + zero_point, 0, 2^bits - 1)`` as floating point numbers (ties to even)."""
    # In place from the first result on, here and below: new memory costs more than the arithmetic.
    return (x / scale).round_().add_(zero_point).clamp_(0, 2**bits - 1)


def affine_values(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Values of codes in floating point: ``scale * (codes - zero_point)``; overwrites the codes."""
    return codes.sub_(zero_point).mul_(scale)


def fake_quantize_affine(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Values after quantization: ``scale * (codes - zero_point)``; all tensors broadcast against `x`."""
    return affine_values(affine_codes(x, scale, zero_point, bits), scale, zero_point)


def affine_from_range(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the affine format that covers ``[low, high]``.

    The range is first widened to contain zero, so that the zero point is one of the codes and zero has no error.
    An empty range (all zeros) gets scale 1.

    Returns:
        scale and integer-valued zero point, each of the shape of `low`.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    # The step of a range of denormal numbers may round to zero: nothing would be left to divide by.
    scale = torch.where(scale > torch.finfo(scale.dtype).tiny, scale, torch.ones_like(scale))
    zero_point = torch.round(-low / scale).clamp_(0, 2**bits - 1)
    return scale, zero_point


class AffineQuantizer(NumberFormat):
    """Asymmetric uniform format: unsigned codes with a zero point.

    ``code = clip(round(x / scale) + zero_point, 0, 2^bits - 1)`` and ``value = scale * (code - zero_point)``.

    Args:
        scale: step between two values, broadcastable against the tensors that will be quantized.
        zero_point: code of zero, broadcastable likewise; an integer number stored as floating point.
        bits: 1 to 16.

    Raises:
        LampQError: bits out of range.
    """

    name = "affine"
    tensors = ("scale", "zero_point")

    def __init__(self, scale: Tensor, zero_point: Tensor, bits: int) -> None:
        super().__init__()
        check_bits(bits)
        self.bits = bits
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("zero_point", zero_point.detach().to(scale.dtype).clone())
        # With one whole zero point, ``clip(round(x / scale), -z, 2^bits - 1 - z)`` are the codes less the zero point.
        one = zero_point.numel() == 1 and bool(zero_point == zero_point.round())
        self._limits = (-zero_point.item(), 2**bits - 1 - zero_point.item()) if one else None

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes of `x` (int32), same shape."""
        return affine_codes(x, self.scale, self.zero_point, self.bits).to(torch.int32)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Values of integer codes, same shape."""
        return (codes.to(self.scale.dtype) - self.zero_point) * self.scale

    def integers(self, codes: Tensor) -> list[tuple[Tensor, Tensor]]:
        if not torch.equal(self.zero_point, self.zero_point.round()):
            raise LampQError("the zero point is no integer (base_quantizer.literal=true): values are not whole steps")
        return [(codes.double() - self.zero_point, self.scale)]

    def forward(self, x: Tensor) -> Tensor:
        """`x` after quantization and dequantization, same shape."""
        if self._limits is not None:
            return (x / self.scale).round_().clamp_(*self._limits).mul_(self.scale)
        return fake_quantize_affine(x, self.scale, self.zero_point, self.bits)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, scale={tuple(self.scale.shape)}"


def fake_quantize_symmetric(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Values after quantization around zero: ``scale * clip(round(x / scale), -2^(bits-1), 2^(bits-1) - 1)``."""
    half = 2 ** (bits - 1)
    return (x / scale).round_().clamp_(-half, half - 1).mul_(scale)


class SymmetricQuantizer(NumberFormat):
    """Symmetric uniform format: signed codes around zero.

    ``code = clip(round(x / scale), -2^(bits-1), 2^(bits-1) - 1)`` and ``value = scale * code``. With one bit the
    codes are -1 and 0.

    Args:
        scale: step between two values, broadcastable against the tensors that will be quantized.
        bits: 1 to 16.

    Raises:
        LampQError: bits out of range.
    """

    name = "symmetric"

    def __init__(self, scale: Tensor, bits: int) -> None:
        super().__init__()
        check_bits(bits)
        self.bits = bits
        self.register_buffer("scale", scale.detach().clone())

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes of `x` (int32), same shape."""
        half = 2 ** (self.bits - 1)
        return (x / self.scale).round_().clamp_(-half, half - 1).to(torch.int32)

    def code_range(self) -> tuple[int, int]:
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

    def dequantize(self, codes: Tensor) -> Tensor:
        """Values of integer codes, same shape."""
        return codes.to(self.scale.dtype) * self.scale

    def integers(self, codes: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(codes.double(), self.scale)]

    def forward(self, x: Tensor) -> Tensor:
        """`x` after quantization and dequantization, same shape."""
        return fake_quantize_symmetric(x, self.scale, self.bits)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, scale={tuple(self.scale.shape)}"
