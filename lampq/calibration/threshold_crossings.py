"""Errors of candidates whose scales are so close that few elements change their level: only those are looked at.

Around a base candidate ``s U`` (U the levels) another one is ``s' (U + D)`` with a sparse D. With the base's residual
``R = s U M - T`` and product ``K = U M``, the other's residual is ``R + (s' - s) K + s' D M``, exactly. Which elements
change is read off their sorted values: between two scales each threshold sweeps over a contiguous range.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lampq.calibration.operand import Operand

CHANGED_FRACTION = 0.03
"""Most of the elements that may change from one scale of a run to the next; beyond, evaluating anew is cheaper."""

SMALLEST_RUN = 3
"""A base costs more than an evaluation: fewer candidates are evaluated one by one."""


@dataclass(frozen=True)
class Base:
    """A candidate that others are compared with.

    Attributes:
        scale, partner: the candidate.
        error: its error.
        first, second: ``<R, K>`` and ``<K, K>``.
        residual, product: R and K, ``[rows of all matrices, columns]``.
    """

    scale: float
    partner: float
    error: float
    first: float
    second: float
    residual: Tensor
    product: Tensor


def _ranks(operand: Operand, scales: Tensor, thresholds: Tensor) -> Tensor:
    """How many elements lie below each threshold at each scale: ``[scales, thresholds]``."""
    bounds = scales.double()[:, None] * thresholds
    return torch.searchsorted(operand.ascending, bounds.to(operand.ascending))


def runs_of_near_scales(operand: Operand, scales: Tensor, partners: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Candidates of one partner whose neighbouring scales differ in at most `CHANGED_FRACTION` of the elements.

    Args:
        scales, partners: ``[candidates]``.

    Yields:
        indices of the run, and the index of the candidate in its middle.
    """
    limit = int(CHANGED_FRACTION * operand.ascending.numel())
    for partner in partners.unique().tolist():
        members = (partners == partner).nonzero().flatten()
        if members.numel() < SMALLEST_RUN:
            continue
        members = members[torch.sort(scales[members], stable=True).indices]
        thresholds, _ = operand.format.thresholds(partner)
        ranks = _ranks(operand, scales[members], thresholds)
        changed = (ranks[1:] - ranks[:-1]).abs().sum(1)
        breaks = (changed > limit).nonzero().flatten().add(1).tolist()
        for start, stop in zip([0, *breaks], [*breaks, members.numel()], strict=True):
            if stop - start >= SMALLEST_RUN:
                along = changed[start : stop - 1].cumsum(0)
                center = start + int((along <= along[-1] // 2).sum())
                yield members[start:stop], members[center].item()


def crossing_errors(operand: Operand, base: Base, operator: Tensor, scales: Tensor) -> Tensor:
    """Errors of candidates near a base, float64 ``[candidates]``.

    Args:
        operator: M, ``[batch or 1, inner, columns]``.
        scales: ``[candidates]``, with the base's partner.
    """
    errors = torch.empty(scales.numel(), dtype=torch.float64)
    ascending = torch.sort(scales, stable=True).indices
    above = ascending[scales[ascending] >= base.scale]
    below = ascending[scales[ascending] < base.scale].flip(0)
    for path in (above, below):
        if path.numel():
            errors[path] = _errors_along(operand, base, operator, scales[path])
    return errors


def _errors_along(operand: Operand, base: Base, operator: Tensor, path: Tensor) -> Tensor:
    """Errors at the scales of a path that leads away from the base, float64 ``[steps]``."""
    element, change, step = _changed_elements(operand, base, path)
    element, order = torch.sort(element)
    change, step = change[order], step[order]
    inner = operator.shape[1]
    row = element // inner
    line = element - row * inner
    if operator.shape[0] > 1:
        line += row // operand.values.shape[1] * inner
    rows, row = torch.unique_consecutive(row, return_inverse=True)
    residual, product = base.residual[rows].view(-1), base.product[rows].view(-1)
    order = torch.sort(step, stable=True).indices
    line, change, row = line[order], change[order], row[order]
    ends = torch.searchsorted(step[order], torch.arange(path.numel(), device=step.device), right=True).tolist()
    lines = operator.flatten(0, 1)
    changes = torch.zeros_like(residual)
    every_row = torch.arange(rows.numel(), device=rows.device)
    errors = []
    for scale, start, end in zip(path.tolist(), [0, *ends], ends, strict=False):
        if end > start:
            offsets = torch.searchsorted(row[start:end], every_row)
            weights = change[start:end]
            added = functional.embedding_bag(line[start:end], lines, offsets, mode="sum", per_sample_weights=weights)
            changes += added.view(-1)
        distance = scale - base.scale
        errors.append(
            base.error
            + 2 * distance * base.first
            + distance**2 * base.second
            + 2 * scale * (torch.dot(changes, residual) + distance * torch.dot(changes, product)).item()
            + scale**2 * torch.dot(changes, changes).item()
        )
    return torch.tensor(errors, dtype=torch.float64)


def _changed_elements(operand: Operand, base: Base, path: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Elements that change level along a path: flat index, change of level, and the step at which it happens."""
    thresholds, rises = operand.format.thresholds(base.partner)
    start = torch.tensor([base.scale], dtype=path.dtype)
    ranks = _ranks(operand, torch.cat([start, path]), thresholds)
    before, after = ranks[:-1].flatten(), ranks[1:].flatten()
    counts = (after - before).abs()
    segment = torch.repeat_interleave(torch.arange(counts.numel(), device=counts.device), counts)
    offset = torch.arange(segment.numel(), device=counts.device) - (counts.cumsum(0) - counts)[segment]
    position = torch.minimum(before, after)[segment] + offset
    # A threshold that moves up leaves elements below itself, one level lower than before.
    falls = torch.sign(after - before).to(operand.ascending.dtype)
    change = -falls * rises.to(falls).repeat(path.numel())
    return operand.order[position], change[segment], segment // thresholds.numel()
