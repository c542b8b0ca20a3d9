"""Number formats as a search sees them: levels without their scale, and the thresholds between neighbouring levels.

A candidate's value is ``scale * level``. Which level an element takes changes only where ``x / scale`` crosses a
threshold; that is all that a search needs to know about a format.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lampq.number_formats.adalog import BASE_DENOMINATOR, SMALLEST_RATIO, adalog_levels


@lru_cache(maxsize=1024)
def _table(log_base: int, bits: int) -> Tensor:
    """`adalog_levels`, kept: a search asks for the same few tables again and again."""
    return adalog_levels(torch.tensor(log_base), bits)


@dataclass(frozen=True)
class UniformFormat:
    """Affine format; the partner of a scale is its zero point."""

    bits: int

    def prepare(self, x: Tensor) -> Tensor:
        """What `levels` reads instead of `x`; computed once for all candidates."""
        return x

    def levels(
        self, prepared: Tensor, scale: Tensor | float, partner: Tensor | float, out: Tensor | None = None
    ) -> Tensor:
        """Levels of all elements, ``code - zero_point``; scale and partner broadcast against them."""
        levels = torch.div(prepared, scale, out=out).round_()
        if isinstance(partner, float):
            return levels.clamp_(-partner, 2**self.bits - 1 - partner)
        # Several times faster than clamp_ with tensors as bounds.
        torch.maximum(levels, -partner, out=levels)
        return torch.minimum(levels, 2**self.bits - 1 - partner, out=levels)

    def thresholds(self, partner: float) -> tuple[Tensor, Tensor]:
        """Thresholds of ``x / scale``, ascending, float64 ``[levels - 1]``, and how much the level rises at each."""
        thresholds = torch.arange(2**self.bits - 1, dtype=torch.float64) + (0.5 - partner)
        return thresholds, torch.ones_like(thresholds)


@dataclass(frozen=True)
class BinaryFormat:
    """One bit that is a sign: levels -1 and 1. A scale has no partner; whatever is given is ignored."""

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def levels(self, prepared: Tensor, scale: Tensor, partner: Tensor) -> Tensor:
        """Levels of all elements, -1 or 1; as many of them as the scale broadcasts to."""
        shape = torch.broadcast_shapes(prepared.shape, scale.shape)
        return torch.where(prepared >= 0, 1.0, -1.0).to(prepared.dtype).expand(shape).clone()


@dataclass(frozen=True)
class AdaLogFormat:
    """Adaptive logarithmic format; the partner of a scale is its log base q."""

    bits: int

    def prepare(self, x: Tensor) -> Tensor:
        """The logarithm is taken once: a scale adds a constant to it."""
        return torch.log2(x.clamp(min=torch.finfo(x.dtype).tiny))

    def levels(self, prepared: Tensor, scale: float, partner: float, out: Tensor | None = None) -> Tensor:
        """Levels of all elements: powers of the base, or zero."""
        slope = -BASE_DENOMINATOR / partner
        last_code = min(2**self.bits, round(slope * math.log2(SMALLEST_RATIO)))
        codes = torch.sub(prepared, math.log2(scale), out=out).mul_(slope).round_().clamp_(0, last_code)
        table = _table(int(partner), self.bits).to(prepared)
        return torch.index_select(table, 0, codes.to(torch.int32).view(-1)).view(codes.shape)

    def thresholds(self, partner: float) -> tuple[Tensor, Tensor]:
        """Thresholds of ``x / scale``, ascending, float64 ``[levels - 1]``, and how much the level rises at each."""
        levels = _table(int(partner), self.bits)
        codes = torch.arange(2**self.bits, dtype=torch.float64)
        thresholds = torch.exp2(-(codes + 0.5) * partner / BASE_DENOMINATOR)
        keep = thresholds > SMALLEST_RATIO
        return thresholds[keep].flip(0), (levels[:-1] - levels[1:])[keep].flip(0)


CandidateFormat = UniformFormat | BinaryFormat | AdaLogFormat
