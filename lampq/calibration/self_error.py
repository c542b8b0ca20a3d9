"""Error between a tensor and its quantized self: what initialises the searches on output errors."""

import torch
from torch import Tensor

from lampq.calibration.candidate_formats import CandidateFormat

CHUNK_ELEMENTS = 2**17


class SelfError:
    """Sum of squared quantization errors of every group. Called as `progressive_search` calls it.

    Args:
        candidate_format: the number format.
        values: ``[groups, values]``.
    """

    def __init__(self, candidate_format: CandidateFormat, values: Tensor) -> None:
        self.format = candidate_format
        self.values = values

    def __call__(self, scales: Tensor, partners: Tensor, keep: int) -> Tensor:
        """Errors ``[groups, families, members]``, float64."""
        groups, families, members = scales.shape
        errors = torch.zeros(groups, families * members, dtype=torch.float64, device=scales.device)
        columns = min(self.values.shape[1], CHUNK_ELEMENTS)
        rows = max(1, CHUNK_ELEMENTS // columns)
        scales, partners = scales.flatten(1), partners.repeat_interleave(members, 1)
        for row in range(0, groups, rows):
            for column in range(0, self.values.shape[1], columns):
                x = self.values[row : row + rows, column : column + columns]
                for candidate in range(families * members):
                    scale = scales[row : row + rows, candidate, None]
                    levels = self.format.levels(x, scale, partners[row : row + rows, candidate, None])
                    difference = levels.mul_(scale).sub_(x)
                    errors[row : row + rows, candidate] += torch.linalg.vector_norm(difference, dim=1).double().square()
        return errors.view(groups, families, members)
