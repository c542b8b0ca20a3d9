"""Searching the two ends of an operand's range by themselves, on the error of the product.

Wu et al., APHQ-ViT: Post-Training Quantization with Average Perturbation Hessian Based Reconstruction for Vision
Transformers, CVPR 2025. Attention probabilities are never negative and queries, keys and values are not spread evenly
around zero, so a window of zero points around the middle code does not serve all of them; a lower and an upper end do.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lampq.calibration.alternating_search import AlternatingSearch, Parameters
from lampq.calibration.candidate_formats import UniformFormat
from lampq.calibration.candidates import sorted_quantiles
from lampq.calibration.operand import Operand
from lampq.calibration.progressive_search import first_best
from lampq.number_formats.uniform import affine_from_range

LOWEST = (0.00001, 0.01)
"""Quantiles between which the lower end is searched."""

HIGHEST = (0.99, 0.99999)
"""Quantiles between which the upper end is searched."""


@dataclass(frozen=True)
class BoundSearch:
    """How thoroughly to search.

    Attributes:
        search: how often operands take turns, and which error is minimized.
        values: how many values of an end are tried, evenly between its two quantiles.
    """

    search: AlternatingSearch
    values: int

    def product(self, a: Tensor, b: Tensor, bits: int) -> tuple[Parameters, Parameters]:
        """Both operands of a product, one scale and zero point a head each.

        Args:
            a: ``[images, heads, rows, inner]``.
            b: ``[images, heads, inner, columns]``.
            bits: of both operands.

        Returns:
            scale and zero point ``[heads]`` of `a` and of `b`.
        """
        found = [self._head(a[:, head], b[:, head].mT, bits) for head in range(a.shape[1])]
        first, second = zip(*found, strict=True)
        return tuple(tuple(torch.cat(values) for values in zip(*operand, strict=True)) for operand in (first, second))

    def _head(self, a: Tensor, b: Tensor, bits: int) -> list[Parameters]:
        operands = [Operand(x.contiguous(), UniformFormat(bits)) for x in (a, b)]
        ends = [self._ends(operand) for operand in operands]

        def turn(own: int, end: int):
            """Search one end of one operand, all else as found so far: ``[low, high]`` of each operand."""

            def search(found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
                other = 1 - own
                quantized = operands[other].quantized(*affine_from_range(*found[other], bits))
                errors = self.search.tensor_error(operands[own], quantized.mT, operands[other].x.mT)
                tried = list(found[own])
                tried[end] = ends[own][end]
                low, high = torch.broadcast_tensors(*tried)
                scales, zero_points = affine_from_range(low, high, bits)
                best = first_best(errors(scales[None, :, None], zero_points[None], 1).flatten(1))
                return low[best], high[best]

            return search

        turns = [lambda found, own=own: _both_ends(found, own, turn) for own in (0, 1)]
        start = [(low[:1], high[-1:]) for low, high in ends]
        return [affine_from_range(*bounds, bits) for bounds in self.search.alternate(turns, start)]

    def _ends(self, operand: Operand) -> tuple[Tensor, Tensor]:
        """Values tried for the lower and for the upper end, ascending, ``[values]`` each."""
        quantiles = sorted_quantiles(operand.ascending[None], (*LOWEST, *HIGHEST)).flatten()
        steps = torch.linspace(0, 1, self.values, dtype=quantiles.dtype, device=quantiles.device)
        lows, highs = torch.lerp(quantiles[0], quantiles[1], steps), torch.lerp(quantiles[2], quantiles[3], steps)
        return lows, highs


def _both_ends(found: list, own: int, turn) -> tuple[Tensor, Tensor]:
    """One operand's turn: its upper end, then its lower one."""
    found = list(found)
    found[own] = turn(own, 1)(found)
    return turn(own, 0)(found)
