"""Output error in which every element of the output counts by a weight of its own, as by the gradient of the loss.

``sum (g * (O^ - O))^2``: with such weights no Gram matrix is smaller than the outputs themselves. Candidates are
evaluated on one piece of the output after the other instead, and given up when they cannot win any more.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lampq.calibration.best_first import best_first
from lampq.calibration.progressive_search import first_best

PIECE_ELEMENTS = 2**16
"""Elements of an output evaluated at once."""

Output = Callable[[int, slice], Tensor]
"""The output for a candidate and a piece of the batch, ``[piece, ..., columns]``; it may be overwritten."""


class WeightedOutputError:
    """The pieces of a product's output, what they should be, and how much their elements count.

    Args:
        target: full-precision output, ``[batch, ..., columns]``.
        weights: g, of the same shape; None: every element counts alike.
        fraction: of each item of the batch, this fraction of its elements, those of the largest errors, is summed.
        items: items of the batch evaluated at once; None: `PIECE_ELEMENTS` elements.
    """

    def __init__(self, target: Tensor, weights: Tensor | None, fraction: float = 1.0, items: int | None = None) -> None:
        largest = 0.0 if weights is None else weights.abs().max().item()
        # Only ratios count; where nothing reaches the loss, everything counts alike.
        self.weights = weights / largest if largest > 0 else None
        self.target = target
        elements = target[0].numel()
        self.dropped = elements - math.ceil(fraction * elements)
        step = items or max(1, PIECE_ELEMENTS // elements)
        self.pieces = [slice(start, start + step) for start in range(0, len(target), step)]

    def best(self, candidates: int, output: Output) -> int:
        """Index of the best candidate, the first of equally good ones."""

        def piece_error(candidate: int, piece: int) -> float:
            place = self.pieces[piece]
            difference = self._weighted_difference(output(candidate, place), place)
            if self.dropped:
                terms = difference.square_().flatten(1)
                smallest = terms.topk(self.dropped, largest=False, sorted=False).values
                return (terms.sum(dtype=torch.float64) - smallest.sum(dtype=torch.float64)).item()
            return torch.dot(difference.view(-1), difference.view(-1)).item()

        errors = best_first(piece_error, candidates, len(self.pieces), 1, [])
        return int(first_best(torch.tensor([errors], dtype=torch.float64))[0])

    def best_of_columns(self, candidates: int, output: Output) -> Tensor:
        """The same for every column of the output by itself: indices ``[columns]``."""
        errors = torch.zeros(self.target.shape[-1], candidates, dtype=torch.float64, device=self.target.device)
        for candidate in range(candidates):
            for place in self.pieces:
                difference = self._weighted_difference(output(candidate, place), place)
                errors[:, candidate] += difference.square_().flatten(0, -2).sum(0, dtype=torch.float64)
        return first_best(errors)

    def _weighted_difference(self, product: Tensor, place: slice) -> Tensor:
        difference = product.sub_(self.target[place])
        return difference if self.weights is None else difference.mul_(self.weights[place])
