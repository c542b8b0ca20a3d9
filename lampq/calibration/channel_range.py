"""Bounding the ranges of channels by each other: a few outlying channels shall not spoil the scale of all others.

Ranjan and Savakis, Mix-QViT, 2025, name it clipped channel-wise quantization and print no rule; these are two.
"""

import torch
from torch import Tensor

INTERQUARTILE_RANGES = 1.5
"""Tukey's fence: how many interquartile ranges an end may lie outside the quartiles of all channels' ends."""


def bound_channels(low: Tensor, high: Tensor, bound: str | float) -> tuple[Tensor, Tensor]:
    """Ranges of channels, cut where they leave what is usual among the channels.

    Args:
        low, high: range of every channel, ``[channels]`` each.
        bound: ``iqr``: the upper quartile of all high ends plus 1.5 interquartile ranges, and its mirror image for the
            low ends. A fraction: that quantile of all high ends, and its mirror image.

    Returns:
        low and high ends, ``[channels]`` each. A channel that lies outside altogether gets a range without width at
        the bound it is beyond.
    """
    largest, smallest = _largest_usual(high, bound), -_largest_usual(-low, bound)
    return low.clamp(smallest, largest), high.clamp(smallest, largest)


def _largest_usual(ends: Tensor, bound: str | float) -> Tensor:
    if bound == "iqr":
        lower, upper = torch.quantile(ends, torch.tensor([0.25, 0.75]).to(ends))
        return upper + INTERQUARTILE_RANGES * (upper - lower)
    return torch.quantile(ends, bound)
