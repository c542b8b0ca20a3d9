"""Twin uniform numbers: two regions of a value's range, half of the codes each, with a step of its own.

Yuan et al., PTQ4ViT: Post-Training Quantization for Vision Transformers with Twin Uniform Quantization, ECCV 2022.
"""

import torch
from torch import Tensor

from lampq.errors import LampQError
from lampq.number_formats.adalog import GELU_SHIFT
from lampq.number_formats.base import NumberFormat, check_bits


def fake_quantize_probabilities(x: Tensor, split: Tensor | float, bits: int) -> Tensor:
    """Values of [0, 1] after quantization: 2^(bits-1) levels from 0 to the split, as many from the split to 1.

    Below the split they are a constant step apart, ``split / (2^(bits-1) - 1)``; from the split on they are multiples
    of ``1 / (2^(bits-1) - 1)``, the lowest of them replaced by the split itself, so that order is preserved.
    """
    last = 2 ** (bits - 1) - 1
    low = (x * (last / split)).round_().clamp_(0, last).mul_(split / last)
    high = torch.maximum((x * last).round_().clamp_(0, last).div_(last), torch.as_tensor(split, dtype=x.dtype).to(x))
    return torch.where(x < split, low, high)


def fake_quantize_overlapping(x: Tensor, split: Tensor | float, bits: int) -> Tensor:
    """The same as the authors' code has it: both regions are always read, x cut off at the split, and added.

    So a value above the split becomes its level plus the split, and one below it its level plus the multiple of
    ``1 / (2^(bits-1) - 1)`` that is nearest to the split.
    """
    last = 2 ** (bits - 1) - 1
    low = x.clamp(max=split).mul_(last / split).round_().clamp_(0, last).mul_(split / last)
    return x.clamp(min=split).mul_(last).round_().clamp_(0, last).div_(last).add_(low)


def fake_quantize_post_gelu(x: Tensor, scale: Tensor | float, bits: int) -> Tensor:
    """GELU outputs after quantization: positive ones by `scale`, negative ones by the range that GELU has there.

    ``clip(round(x / scale), 0, h - 1) scale + clip(round(x / s), -h, 0) s`` with ``h = 2^(bits-1)`` and ``s = m / h``,
    -m being GELU's minimum.
    """
    half = 2 ** (bits - 1)
    negative_scale = GELU_SHIFT / half
    positive = (x / scale).round_().clamp_(0, half - 1).mul_(scale)
    return (x / negative_scale).round_().clamp_(-half, 0).mul_(negative_scale).add_(positive)


class ProbabilityQuantizer(NumberFormat):
    """Twin uniform format of attention probabilities.

    Args:
        split: where the upper region begins, in (0, 1]; a scalar.
        bits: 2 to 16.
        overlapping: the authors' formula (see `fake_quantize_overlapping`), whose values are no codes of `bits` bits.

    Raises:
        LampQError: bits out of range.
    """

    name = "twin_probabilities"
    tensors = ("split",)
    constants = ("bits", "overlapping")

    def __init__(self, split: Tensor, bits: int, overlapping: bool = False) -> None:
        super().__init__()
        check_twin_bits(bits)
        self.bits, self.overlapping = bits, overlapping
        self.register_buffer("split", split.detach().clone())

    def codes(self, x: Tensor) -> Tensor:
        """Levels of the lower region, then those of the upper one (int32); where they overlap, they are no codes.

        Raises:
            LampQError: overlapping regions.
        """
        if self.overlapping:
            raise LampQError("regions that overlap (base_quantizer.literal=true) have more values than codes")
        last = self._last
        low = (x * (last / self.split)).round_().clamp_(0, last)
        return torch.where(x < self.split, low, (x * last).round_().clamp_(0, last) + last + 1).to(torch.int32)

    def dequantize(self, codes: Tensor) -> Tensor:
        last, values = self._last, codes.to(self.split.dtype)
        high = torch.maximum((values - last - 1).div_(last), self.split)
        return torch.where(codes > last, high, values * (self.split / last))

    def integers(self, codes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Steps below the split (as many as there are for the split itself), and steps above it."""
        last, upper = self._last, codes > self._last
        level = codes.double() - last - 1
        replaced = upper & ((level / last).to(self.split.dtype) < self.split)
        low = torch.where(replaced, float(last), torch.where(upper, 0.0, codes.double()))
        return [
            (low, self.split / last),
            (torch.where(upper & ~replaced, level, 0.0), torch.ones_like(self.split) / last),
        ]

    @property
    def _last(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def forward(self, x: Tensor) -> Tensor:
        """`x` after quantization and dequantization, same shape."""
        quantize = fake_quantize_overlapping if self.overlapping else fake_quantize_probabilities
        return quantize(x, self.split, self.bits)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, overlapping={self.overlapping}"


class PostGELUQuantizer(NumberFormat):
    """Twin uniform format of what GELU gives.

    Args:
        scale: step of the positive values; a scalar.
        bits: 2 to 16.

    Raises:
        LampQError: bits out of range.
    """

    name = "twin_gelu"

    def __init__(self, scale: Tensor, bits: int) -> None:
        super().__init__()
        check_twin_bits(bits)
        self.bits = bits
        self.register_buffer("scale", scale.detach().clone())

    def codes(self, x: Tensor) -> Tensor:
        """Positive values have codes from 0 on, negative ones below 0 (int32)."""
        half = 2 ** (self.bits - 1)
        positive = (x / self.scale).round_().clamp_(0, half - 1)
        return (x / (GELU_SHIFT / half)).round_().clamp_(-half, 0).add_(positive).to(torch.int32)

    def code_range(self) -> tuple[int, int]:
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

    def dequantize(self, codes: Tensor) -> Tensor:
        values = codes.to(self.scale.dtype)
        return torch.where(codes < 0, values * (GELU_SHIFT / 2 ** (self.bits - 1)), values * self.scale)

    def integers(self, codes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Steps below zero and steps above it."""
        negative = torch.full_like(self.scale, GELU_SHIFT / 2 ** (self.bits - 1))
        return [(codes.double().clamp(max=0), negative), (codes.double().clamp(min=0), self.scale)]

    def forward(self, x: Tensor) -> Tensor:
        """`x` after quantization and dequantization, same shape."""
        return fake_quantize_post_gelu(x, self.scale, self.bits)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


def check_twin_bits(bits: int) -> None:
    """Raise LampQError unless `bits` is an integer from 2 to 16: with one there is one code a region."""
    check_bits(bits)
    if bits < 2:
        raise LampQError(f"bits: {bits} leaves one code for each of the two regions; take at least 2")
