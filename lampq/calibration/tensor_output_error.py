"""Output error of a product for candidate scales of its first operand, one scale for the whole operand.

The error ``||X^ M - X M0||^2`` needs as many columns of M as X has: with the orthonormal basis Q of M's row space
(``M' = Q R``), ``M Q = R'`` is square and the part of the error outside the basis is a constant.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lampq.calibration.best_first import best_first
from lampq.calibration.operand import Operand
from lampq.calibration.threshold_crossings import Base, crossing_errors, runs_of_near_scales

CHUNK_ELEMENTS = 2**17


@dataclass(frozen=True)
class _Part:
    """A piece of the operand that fits the cache, as views: quantized values times operator, compared with target."""

    place: slice
    prepared: Tensor
    operator: Tensor
    target: Tensor
    constant: float


class TensorOutputError:
    """Errors ``||X^ M - X M0||^2`` of candidates for X; a single group. Called as `progressive_search` calls it.

    Args:
        operand: X, ``[batch, rows, inner]``.
        operator: M, what the quantized operand will be multiplied with, ``[batch or 1, inner, outer]``.
        full_operator: M0, the same in full precision.
    """

    def __init__(self, operand: Operand, operator: Tensor, full_operator: Tensor) -> None:
        self.operand = operand
        self.shared = operator.shape[0] == 1
        difference = operator - full_operator
        reduced, reduced_difference = operator, difference
        if operator.shape[2] > operator.shape[1]:
            basis, triangle = torch.linalg.qr(operator.double().mT)
            reduced = triangle.mT.to(operator.dtype)
            reduced_difference = (difference.double() @ basis).to(operator.dtype)
        self.operator = reduced.contiguous()
        values, prepared, x = (self._rows(t) for t in (operand.values, operand.prepared, operand.x))
        step = max(1, CHUNK_ELEMENTS // values[0].numel())
        self.parts = []
        for start in range(0, values.shape[0], step):
            place = slice(start, start + step)
            matrix, small, large = (self._of(t, place) for t in (self.operator, reduced_difference, difference))
            initial = x[place] @ small
            constant = 0.0
            if reduced is not operator:
                outside = _square_sum(x[place] @ large) - _square_sum(initial)
                constant = max(0.0, outside)
            self.parts.append(_Part(place, prepared[place], matrix, values[place] @ matrix - initial, constant))
        self._levels = torch.empty_like(self.parts[0].prepared)
        self._residual = torch.empty_like(self.parts[0].target)

    def _rows(self, tensor: Tensor) -> Tensor:
        """What is cut into parts: single rows if they share one operator, else whole matrices."""
        return tensor.flatten(0, 1) if self.shared else tensor

    def _of(self, operator: Tensor, place: slice) -> Tensor:
        return operator[0] if self.shared else operator[place]

    def __call__(self, scales: Tensor, partners: Tensor, keep: int) -> Tensor:
        """Errors ``[1, families, members]``, float64; infinity for some of those that are not among the best."""
        # Candidates are few numbers that steer what is computed: they stay on the CPU.
        flat_scales = scales.flatten().cpu()
        flat_partners = partners.unsqueeze(-1).expand_as(scales).flatten().cpu()
        errors = torch.full((flat_scales.numel(),), torch.inf, dtype=torch.float64)
        remaining = torch.ones(flat_scales.numel(), dtype=torch.bool)
        if scales.shape[2] > 1:
            for run, center in runs_of_near_scales(self.operand, flat_scales, flat_partners):
                base = self._base(flat_scales[center].item(), flat_partners[center].item())
                errors[run] = crossing_errors(self.operand, base, self.operator, flat_scales[run])
                remaining[run] = False
        rest = remaining.nonzero().flatten()
        pairs = list(zip(flat_scales[rest].tolist(), flat_partners[rest].tolist(), strict=True))

        def part_error(candidate: int, part: int) -> float:
            residual = self._residual_of(self.parts[part], *pairs[candidate]).view(-1)
            return torch.dot(residual, residual).item() + self.parts[part].constant

        known = errors[~remaining].tolist()
        found = best_first(part_error, len(pairs), len(self.parts), keep, known)
        errors[remaining] = torch.tensor(found, dtype=torch.float64)
        return errors.view(scales.shape).to(scales.device)

    def _residual_of(self, part: _Part, scale: float, partner: float) -> Tensor:
        """Quantized output minus target of a part, in a buffer."""
        size = part.prepared.shape[0]
        levels = self.operand.format.levels(part.prepared, scale, partner, out=self._levels[:size])
        multiply_add = torch.addmm if self.shared else torch.baddbmm
        return multiply_add(part.target, levels, part.operator, beta=-1, alpha=scale, out=self._residual[:size])

    def _base(self, scale: float, partner: float) -> Base:
        residual = torch.cat([self._residual_of(part, scale, partner).clone() for part in self.parts])
        target = torch.cat([part.target for part in self.parts])
        product = (residual + target).div_(scale)
        error = _square_sum(residual) + sum(part.constant for part in self.parts)
        first = (residual * product).sum(dtype=torch.float64).item()
        columns = product.shape[-1]
        return Base(
            scale=scale,
            partner=partner,
            error=error,
            first=first,
            second=_square_sum(product),
            residual=residual.view(-1, columns),
            product=product.view(-1, columns),
        )


def _square_sum(tensor: Tensor) -> float:
    return tensor.square().sum(dtype=torch.float64).item()
