"""Candidate grids: the scales, and zero points or log bases, that a search starts from.

Wu et al., AdaLog, ECCV 2024: ranges run from the 80 % interquantile range to the full range, zero points are a window
around the middle code, and the list is their product.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lampq.number_formats.uniform import affine_from_range

QUANTILES = (0.0, 0.1, 0.9, 1.0)
MAXIMUM_ZERO_POINTS = 16
SMALLEST_LOG_BASE, LOG_BASES = 10, 128
SMALLEST_RELATIVE_SCALE = 1e-5
"""A scale below this fraction of the largest candidate is never useful, and could be zero or negative."""

ANCHORED_BITS = 7
"""From here on the published window of zero points covers an eighth of the codes or less, and at 8 bits the patch
embedding has a single scale: values that are not spread evenly around zero would be clipped. The min-max parameters
are then considered too."""


@dataclass(frozen=True)
class CandidateGrid:
    """Candidates of independent searches (one a group: a weight row, a channel, a head, a whole tensor).

    Candidates come in families that share a partner (zero point or log base) and differ in scale.

    Attributes:
        scales: ``[groups, families, members]``.
        partners: ``[groups, families]``.
        spacing: distance of neighbouring scales, ``[groups]``; 0 where there is a single one.
        smallest_scale: refined scales are not allowed below it, ``[groups]``.
        anchor: one more scale and partner, ``[groups]`` each, that the search's answer has to beat, or None.
    """

    scales: Tensor
    partners: Tensor
    spacing: Tensor
    smallest_scale: Tensor
    anchor: tuple[Tensor, Tensor] | None = None

    def second_largest(self) -> tuple[Tensor, Tensor]:
        """Second-last candidate in the order partner by partner, scales ascending: scale and partner ``[groups]``."""
        scales = self.scales.flatten(1)
        partners = self.partners.unsqueeze(-1).expand_as(self.scales).flatten(1)
        return scales[:, -2], partners[:, -2]


def sorted_quantiles(ascending: Tensor, fractions: tuple[float, ...]) -> Tensor:
    """Quantiles by linear interpolation of values already sorted along the last axis.

    Args:
        ascending: ``[groups, values]``.

    Returns:
        ``[fractions, groups]``
    """
    last = ascending.shape[-1] - 1
    positions = torch.tensor(fractions, dtype=torch.float64, device=ascending.device) * last
    below = positions.floor().long()
    above = (below + 1).clamp_(max=last)
    weight = (positions - below).to(ascending.dtype)
    return torch.lerp(ascending[:, below], ascending[:, above], weight).T


def zero_point_window(bits: int, count: int) -> list[int]:
    """`count` neighbouring codes around the middle code ``2^(bits - 1)``; for a single one at one bit, code 0."""
    middle = 2 ** (bits - 1)
    return list(range(middle - (count + 1) // 2, middle - (count + 1) // 2 + count))


def weight_zero_points(bits: int) -> list[int]:
    """Zero points tried for weights and for the operands of attention matmuls."""
    return zero_point_window(bits, min(MAXIMUM_ZERO_POINTS, 2 ** (bits - 1)))


def activation_zero_points(bits: int) -> list[int]:
    """Zero points tried for the inputs of linear layers."""
    return zero_point_window(bits, min(MAXIMUM_ZERO_POINTS, 2**bits))


def convolution_zero_points(bits: int, candidates: int) -> list[int]:
    """Zero points tried for the weights of the patch embedding: not limited to 16."""
    return zero_point_window(bits, min(candidates, 2 ** (bits - 1)))


def uniform_grid(
    ascending: Tensor, bits: int, zero_points: list[float], candidates: int, smallest_scale: float = 0.0
) -> CandidateGrid:
    """Scales crossed with zero points.

    Args:
        ascending: values to be quantized, sorted, ``[groups, values]``.
        zero_points: the window of zero points.
        candidates: how many pairs; ``candidates // len(zero_points)`` scales.
        smallest_scale: floor of the scales.
    """
    minimum, low, high, maximum = sorted_quantiles(ascending, QUANTILES)
    narrow, wide = high - low, maximum - minimum
    # A constant group has no range: its distance from zero stands in, so that the value itself can be represented.
    magnitude = torch.where(maximum.abs() > 0, maximum.abs(), torch.ones_like(maximum))
    wide = torch.where(wide > 0, wide, magnitude)
    narrow = torch.where(maximum > minimum, narrow, wide)
    count = candidates // len(zero_points)
    steps = torch.linspace(0, 1, count, dtype=ascending.dtype, device=ascending.device)
    scales = (narrow[:, None] + (wide - narrow)[:, None] * steps) / (2**bits - 1)
    floor = (SMALLEST_RELATIVE_SCALE * scales[:, -1]).clamp(min=max(smallest_scale, torch.finfo(scales.dtype).tiny))
    scales = torch.maximum(scales, floor[:, None])
    spacing = scales[:, 1] - scales[:, 0] if count > 1 else torch.zeros_like(floor)
    partners = torch.tensor(zero_points, dtype=ascending.dtype, device=ascending.device)
    groups = ascending.shape[0]
    return CandidateGrid(
        scales=scales[:, None, :].expand(groups, len(zero_points), count),
        partners=partners.expand(groups, len(zero_points)),
        spacing=spacing,
        smallest_scale=floor,
        anchor=affine_from_range(minimum, maximum, bits) if bits >= ANCHORED_BITS else None,
    )


def log_bases(candidates: int, like: Tensor) -> Tensor:
    """The log bases q of a sweep: 10 to 137, or evenly chosen ones of them if there are fewer candidates."""
    count = min(candidates, LOG_BASES)
    steps = torch.arange(count, device=like.device) * LOG_BASES // count
    return (SMALLEST_LOG_BASE + steps).to(like.dtype)


def positive_scales(ascending: Tensor, shift: float, count: int) -> Tensor:
    """Scales of the post-GELU format, ascending, ``[count]``.

    Evenly from the 90 % quantile to the maximum *of the positive values only* (the value of rank
    ``ceil(fraction * how many)``), plus the shift that is added to the input.

    Args:
        ascending: sorted inputs, without the shift, ``[values]``.
    """
    positive = ascending[torch.searchsorted(ascending, ascending.new_zeros(1), right=True).item() :]
    if positive.numel() == 0:
        positive = ascending.new_zeros(1)
    # Integer arithmetic: nine tenths is not a binary fraction, and 0.9 * count may fall on the wrong side.
    low = positive[-(-positive.numel() * 9 // 10) - 1] + shift
    high = positive[-1] + shift
    return low + (high - low) * torch.linspace(0, 1, count, dtype=ascending.dtype, device=ascending.device)
