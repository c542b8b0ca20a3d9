"""An activation tensor that is searched with one scale for all its elements."""

from functools import cached_property

import torch
from torch import Tensor

from lampq.calibration.candidate_formats import CandidateFormat


class Operand:
    """The values to be quantized and what all searches on them share, whatever they are multiplied with.

    Args:
        x: ``[batch, rows, inner]``; the product is taken over the inner axis.
        candidate_format: the number format.
        shift: added to x before it is quantized.
    """

    def __init__(self, x: Tensor, candidate_format: CandidateFormat, shift: float = 0.0) -> None:
        self.x = x
        self.shift = shift
        self.format = candidate_format
        self.values = x + shift if shift else x.contiguous()
        self.prepared = candidate_format.prepare(self.values)

    @cached_property
    def _sorted(self) -> tuple[Tensor, Tensor]:
        return torch.sort(self.values.flatten())

    @property
    def ascending(self) -> Tensor:
        """All values, sorted, ``[elements]``."""
        return self._sorted[0]

    @property
    def order(self) -> Tensor:
        """Flat index of every sorted value, ``[elements]``."""
        return self._sorted[1]

    def quantized(self, scale: Tensor, partner: Tensor) -> Tensor:
        """The values after quantization, the shift taken off again, shape of `x`."""
        return self.format.levels(self.prepared, scale.item(), partner.item()).mul_(scale).sub_(self.shift)
