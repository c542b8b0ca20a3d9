"""Output error of a product for candidate scales of its first operand, one scale for the whole operand.

Two exact forms. With the change D of the operand, the other operand's Gram matrix ``A = M M'`` and
``B = X (M - M0) M'``, the error is ``<DA, D> + 2 <D, B> + constant``: cheap where M has more columns than rows. The
plain form multiplies with M and compares with the target: cheap where it has fewer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lampq.calibration.best_first import best_first
from lampq.calibration.operand import Operand
from lampq.calibration.threshold_crossings import Base, crossing_errors, runs_of_near_scales

CHUNK_ELEMENTS = 2**17


@dataclass
class _Part:
    """A piece of the operand that fits the cache, as a view."""

    place: slice
    values: Tensor
    prepared: Tensor
    operator: Tensor
    reference: Tensor
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
        self.inner = operator.shape[1]
        self.shared = operator.shape[0] == 1
        values, prepared, x, operator, difference = (
            self._stacked(tensor)
            for tensor in (operand.values, operand.prepared, operand.x, operator, operator - full_operator)
        )
        self.by_gram = operator.shape[-1] >= self.inner
        self.operator_gram = (operator.double() @ operator.double().mT).to(operator.dtype)
        inner_elements = self.inner if self.shared else values[0].numel()
        step = max(1, CHUNK_ELEMENTS // inner_elements)
        self.parts = []
        for start in range(0, values.shape[0], step):
            place = slice(start, start + step)
            own = (lambda matrix: matrix) if self.shared else (lambda matrix, place=place: matrix[place])
            m = own(operator)
            initial = x[place] @ own(difference)
            if self.by_gram:
                constant = initial.square().sum(dtype=torch.float64).item()
                matrix, reference = own(self.operator_gram), initial @ m.mT
            else:
                matrix, reference, constant = m, values[place] @ m - initial, 0.0
            self.parts.append(_Part(place, values[place], prepared[place], matrix, reference, constant))
        largest = self.parts[0]
        self._levels = torch.empty_like(largest.values)
        self._products = torch.empty_like(largest.reference)

    def _stacked(self, tensor: Tensor) -> Tensor:
        """A shared operator multiplies all rows alike: they become one long matrix."""
        if not self.shared:
            return tensor
        return tensor[0] if tensor.shape[0] == 1 else tensor.flatten(0, 1)

    def __call__(self, scales: Tensor, partners: Tensor, keep: int) -> Tensor:
        """Errors ``[1, families, members]``, float64; infinity for some of those that are not among the best."""
        flat_scales = scales.flatten()
        flat_partners = partners.unsqueeze(-1).expand_as(scales).flatten()
        errors = torch.full((flat_scales.numel(),), torch.inf, dtype=torch.float64)
        remaining = torch.ones(flat_scales.numel(), dtype=torch.bool)
        if scales.shape[2] > 1:
            for run, center in runs_of_near_scales(self.operand, flat_scales, flat_partners):
                base = self._base(flat_scales[center], flat_partners[center])
                gram = self.operator_gram.unsqueeze(0) if self.shared else self.operator_gram
                errors[run] = crossing_errors(self.operand, base, gram, flat_scales[run])
                remaining[run] = False
        rest = remaining.nonzero().flatten().tolist()

        def part_error(candidate: int, part: int) -> float:
            index = rest[candidate]
            return self._part_error(self.parts[part], flat_scales[index], flat_partners[index])

        known = errors[~remaining].tolist()
        found = best_first(part_error, len(rest), len(self.parts), keep, known)
        errors[remaining] = torch.tensor(found, dtype=torch.float64)
        return errors.view(scales.shape).to(scales.device)

    def _part_error(self, part: _Part, scale: Tensor, partner: Tensor) -> float:
        size = part.values.shape[0]
        levels = self.operand.format.levels(part.prepared, scale, partner, out=self._levels[:size])
        products = self._products[:size]
        multiply_add = torch.addmm if part.values.dim() == 2 else torch.baddbmm
        if self.by_gram:
            change = levels.mul_(scale).sub_(part.values)
            multiply_add(part.reference, change, part.operator, beta=2, out=products)
            return torch.dot(change.view(-1), products.view(-1)).item() + part.constant
        multiply_add(part.reference, levels, part.operator, beta=-1, alpha=scale.item(), out=products)
        return torch.dot(products.view(-1), products.view(-1)).item()

    def _base(self, scale: Tensor, partner: Tensor) -> Base:
        """Error of one candidate and its derivatives by every element's level."""
        gamma, curvature = torch.empty_like(self.operand.values), torch.empty_like(self.operand.values)
        gammas, curvatures = self._stacked(gamma), self._stacked(curvature)
        error = first = second = 0.0
        for part in self.parts:
            levels = self.operand.format.levels(part.prepared, scale, partner)
            gamma_part, curvature_part = gammas[part.place], curvatures[part.place]
            if self.by_gram:
                change = (levels * scale).sub_(part.values)
                torch.matmul(change, part.operator, out=gamma_part)
                torch.matmul(levels, part.operator, out=curvature_part)
                gamma_part.add_(part.reference)
                error += ((gamma_part + part.reference) * change).sum(dtype=torch.float64).item() + part.constant
            else:
                product = levels @ part.operator
                residual = (product * scale).sub_(part.reference)
                torch.matmul(residual, part.operator.mT, out=gamma_part)
                torch.matmul(product, part.operator.mT, out=curvature_part)
                error += residual.square().sum(dtype=torch.float64).item()
            first += (levels * gamma_part).sum(dtype=torch.float64).item()
            second += (levels * curvature_part).sum(dtype=torch.float64).item()
        return Base(scale.item(), partner.item(), error, first, second, gamma.view(-1), curvature.view(-1))
