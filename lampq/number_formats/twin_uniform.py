"""Twin uniform numbers: two regions of a value's range, half of the codes each, with a step of its own.

Yuan et al., PTQ4ViT: Post-Training Quantization for Vision Transformers with Twin Uniform Quantization, ECCV 2022.
"""

import torch
from torch import Tensor, nn

from lampq.errors import LampQError
from lampq.number_formats.adalog import GELU_SHIFT
from lampq.number_formats.uniform import check_bits


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


class ProbabilityQuantizer(nn.Module):
    """Twin uniform format of attention probabilities.

    Args:
        split: where the upper region begins, in (0, 1]; a scalar.
        bits: 2 to 16.
        overlapping: the authors' formula (see `fake_quantize_overlapping`), whose values are no codes of `bits` bits.

    Raises:
        LampQError: bits out of range.
    """

    def __init__(self, split: Tensor, bits: int, overlapping: bool = False) -> None:
        super().__init__()
        check_twin_bits(bits)
        self.bits, self.overlapping = bits, overlapping
        self.register_buffer("split", split.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """`x` after quantization and dequantization, same shape."""
        quantize = fake_quantize_overlapping if self.overlapping else fake_quantize_probabilities
        return quantize(x, self.split, self.bits)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, overlapping={self.overlapping}"


class PostGELUQuantizer(nn.Module):
    """Twin uniform format of what GELU gives.

    Args:
        scale: step of the positive values; a scalar.
        bits: 2 to 16.

    Raises:
        LampQError: bits out of range.
    """

    def __init__(self, scale: Tensor, bits: int) -> None:
        super().__init__()
        check_twin_bits(bits)
        self.bits = bits
        self.register_buffer("scale", scale.detach().clone())

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
