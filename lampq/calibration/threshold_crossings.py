"""Errors of candidates whose scales are so close that few elements change their level: only those are looked at.

Around a base candidate ``s U`` (U the levels) another one is ``s' (U + D)`` with a sparse D. With the derivatives at
the base, ``G = (s U - X) A + B`` and ``H = U A``, its error is
``E + 2 (s' - s) <U, G> + (s' - s)^2 <U, H> + 2 s' <D, G> + 2 s' (s' - s) <D, H> + s'^2 <DA, D>``, exactly. Which elements
change is read off their sorted values: between two scales each threshold sweeps over a contiguous range.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lampq.calibration.operand import Operand

CHANGED_FRACTION = 0.06
"""Most of the elements that may change within a run of scales that share a base."""

SMALLEST_RUN = 4
"""A base costs about three evaluations: fewer candidates are evaluated one by one."""


@dataclass(frozen=True)
class Base:
    """A candidate, its error and the derivatives of the error.

    Attributes:
        scale, partner: the candidate.
        error: E.
        first, second: ``<U, G>`` and ``<U, H>``.
        gradient, curvature: G and H, ``[elements]``.
    """

    scale: float
    partner: float
    error: float
    first: float
    second: float
    gradient: Tensor
    curvature: Tensor


def _ranks(operand: Operand, scales: Tensor, thresholds: Tensor) -> Tensor:
    """How many elements lie below each threshold at each scale: ``[scales, thresholds]``."""
    bounds = scales.double()[:, None] * thresholds.to(scales.device)
    return torch.searchsorted(operand.ascending, bounds.to(operand.ascending.dtype))


def runs_of_near_scales(operand: Operand, scales: Tensor, partners: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Candidates of one partner between whose scales at most `CHANGED_FRACTION` of the elements change level.

    Args:
        scales, partners: ``[candidates]``.

    Yields:
        indices of the run, and the index of the candidate in its middle.
    """
    limit = int(CHANGED_FRACTION * operand.ascending.numel())
    for partner in partners.unique().tolist():
        members = (partners == partner).nonzero().flatten()
        members = members[torch.sort(scales[members], stable=True).indices]
        if members.numel() < SMALLEST_RUN:
            continue
        thresholds, _ = operand.format.thresholds(partner)
        ranks = _ranks(operand, scales[members], thresholds)
        changed = [0, *(ranks[1:] - ranks[:-1]).abs().sum(1).cumsum(0).tolist()]
        start = 0
        while start < len(changed):
            stop = start
            while stop < len(changed) and changed[stop] - changed[start] <= limit:
                stop += 1
            if stop - start >= SMALLEST_RUN:
                middle = (changed[start] + changed[stop - 1]) / 2
                center = min(range(start, stop), key=lambda index: abs(changed[index] - middle))
                yield members[start:stop], members[center].item()
            start = stop


def crossing_errors(operand: Operand, base: Base, gram: Tensor, scales: Tensor) -> Tensor:
    """Errors of candidates near a base, float64 ``[candidates]``.

    Args:
        gram: A, ``[batch or 1, inner, inner]``.
        scales: ``[candidates]``, with the base's partner.
    """
    errors = torch.empty(scales.numel(), dtype=torch.float64)
    ascending = torch.sort(scales, stable=True).indices
    above = ascending[scales[ascending] >= base.scale]
    below = ascending[scales[ascending] < base.scale].flip(0)
    for path in (above, below):
        if path.numel():
            gradient, curvature, quadratic = _changes_along(operand, base, gram, scales[path])
            scale = scales[path].double().cpu()
            step = scale - base.scale
            errors[path.cpu()] = (
                base.error
                + 2 * step * base.first
                + step.square() * base.second
                + 2 * scale * (gradient + step * curvature)
                + scale.square() * quadratic
            )
    return errors


def _changes_along(operand: Operand, base: Base, gram: Tensor, path: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``<D, G>``, ``<D, H>`` and ``<DA, D>`` at each scale of a path that leads away from the base, float64."""
    element, change, step = _changed_elements(operand, base, path)
    steps = path.numel()

    def accumulated(values: Tensor, at: Tensor) -> Tensor:
        total = torch.zeros(steps, dtype=torch.float64, device=values.device)
        return total.index_add_(0, at, values.double()).cumsum(0).cpu()

    gradient = accumulated(change * base.gradient[element], step)
    curvature = accumulated(change * base.curvature[element], step)
    inner = gram.shape[-1]
    element, order = torch.sort(element, stable=True)
    change, step = change[order], step[order]
    row = element // inner
    column = element - row * inner
    # Flat index of A's row that belongs to an element: the batch's matrix, then the element's column.
    line = column if gram.shape[0] == 1 else row // operand.values.shape[1] * inner + column
    flat_gram = gram.reshape(-1)
    quadratic = accumulated(change.square() * flat_gram[line * inner + column], step)
    first = torch.arange(element.numel(), device=element.device)
    lag = 1
    while first.numel():
        first = first[first + lag < element.numel()]
        first = first[row[first + lag] == row[first]]
        second = first + lag
        values = 2 * change[first] * change[second] * flat_gram[line[first] * inner + column[second]]
        quadratic += accumulated(values, torch.maximum(step[first], step[second]))
        lag += 1
    return gradient, curvature, quadratic


def _changed_elements(operand: Operand, base: Base, path: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Elements that change level along a path: flat index, change of level, and the step at which it happens."""
    thresholds, rises = operand.format.thresholds(base.partner)
    start = torch.tensor([base.scale], dtype=path.dtype, device=path.device)
    ranks = _ranks(operand, torch.cat([start, path]), thresholds)
    before, after = ranks[:-1].flatten(), ranks[1:].flatten()
    counts = (after - before).abs()
    segment = torch.repeat_interleave(torch.arange(counts.numel(), device=counts.device), counts)
    offset = torch.arange(segment.numel(), device=counts.device) - (counts.cumsum(0) - counts)[segment]
    position = torch.minimum(before, after)[segment] + offset
    # A threshold that moves up leaves elements below itself, one level lower than before.
    falls = torch.sign(after - before).to(path.dtype)
    change = -falls * rises.to(path).repeat(path.numel())
    return operand.order[position], change[segment], segment // thresholds.numel()
