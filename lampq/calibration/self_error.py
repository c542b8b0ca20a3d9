"""Error between a tensor and its quantized self: what initialises the searches on output errors."""

import torch
from torch import Tensor
from torch.nn import functional

from lampq.calibration.candidate_formats import BinaryFormat, UniformFormat

CHUNK_ELEMENTS = 2**17

VALUES_PER_LEVEL = 256
"""With more values than this for each level, looking up where the thresholds fall is cheaper than quantizing."""


class SelfError:
    """Sum of squared quantization errors of every group. Called as `progressive_search` calls it.

    Args:
        candidate_format: the number format.
        ascending: sorted values, ``[groups, values]``.
    """

    def __init__(self, candidate_format: UniformFormat | BinaryFormat, ascending: Tensor) -> None:
        self.format = candidate_format
        self.ascending = ascending
        levels = 2 ** getattr(candidate_format, "bits", 1)
        self.by_sums = isinstance(candidate_format, UniformFormat) and levels * VALUES_PER_LEVEL <= ascending.shape[1]
        if self.by_sums:
            # Entry i is the sum of the i smallest values.
            self.sums = functional.pad(ascending.cumsum(1, dtype=torch.float64), (1, 0))
            self.squares = ascending.double().square().sum(1)

    def __call__(self, scales: Tensor, partners: Tensor, keep: int) -> Tensor:
        """Errors ``[groups, families, members]``, float64."""
        flat_scales, flat_partners = scales.flatten(1), partners.repeat_interleave(scales.shape[2], 1)
        evaluate = self._from_sums if self.by_sums else self._from_values
        return evaluate(flat_scales, flat_partners).view(scales.shape)

    def _from_sums(self, scales: Tensor, zero_points: Tensor) -> Tensor:
        """All values between two thresholds have one level: only their number and sum matter."""
        codes = torch.arange(2**self.format.bits, dtype=torch.float64, device=scales.device)
        levels = codes - zero_points.double()[..., None]
        bounds = (levels[..., :-1] + 0.5) * scales.double()[..., None]
        groups, candidates, thresholds = bounds.shape
        bounds = bounds.to(self.ascending.dtype).view(groups, -1)
        ranks = torch.searchsorted(self.ascending, bounds)
        below = self.sums.gather(1, ranks).view(groups, candidates, thresholds)
        ranks = ranks.view(groups, candidates, thresholds).double()
        product = levels[..., -1] * self.sums[:, -1:] - below.sum(2)
        rises = levels[..., 1:].square() - levels[..., :-1].square()
        energy = levels[..., -1].square() * self.ascending.shape[1] - (rises * ranks).sum(2)
        scales = scales.double()
        return (self.squares[:, None] - 2 * scales * product + scales.square() * energy).clamp_(min=0)

    def _from_values(self, scales: Tensor, partners: Tensor) -> Tensor:
        groups, candidates = scales.shape
        errors = torch.zeros(groups, candidates, dtype=torch.float64, device=scales.device)
        columns = min(self.ascending.shape[1], CHUNK_ELEMENTS)
        rows = max(1, CHUNK_ELEMENTS // columns)
        for row in range(0, groups, rows):
            place = slice(row, row + rows)
            for column in range(0, self.ascending.shape[1], columns):
                x = self.ascending[place, column : column + columns]
                for candidate in range(candidates):
                    scale = scales[place, candidate, None]
                    difference = self.format.levels(x, scale, partners[place, candidate, None]).mul_(scale).sub_(x)
                    errors[place, candidate] += torch.linalg.vector_norm(difference, dim=1).double().square()
        return errors
