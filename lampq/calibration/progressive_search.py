"""Fast progressive combining search: a coarse grid, then ever finer scales around the best candidates.

Wu et al., AdaLog, ECCV 2024. Every pass evaluates the same number of candidates: a coarse grid first; then each of
the best few is replaced by several scales around it, in a window as wide as the spacing of the pass before.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lampq.calibration.candidates import CandidateGrid

RELATIVE_TIE = 2.5e-7
"""Candidates whose errors differ by less than this fraction are equally good; the first of them is taken.

Small enough that what the weights' and the inputs' searches give away stays below 1e-6 together."""

Errors = Callable[[Tensor, Tensor, int], Tensor]
"""Errors of candidates: scales ``[groups, families, members]``, partners ``[groups, families]`` and how many of the
best are needed -> ``[groups, families, members]``; infinity is allowed for a candidate that is not among those."""


def first_best(errors: Tensor) -> Tensor:
    """Index of the first candidate within `RELATIVE_TIE` of the best, ``[groups, candidates] -> [groups]``."""
    best = errors.amin(1, keepdim=True)
    return (errors <= best * (1 + RELATIVE_TIE)).to(torch.uint8).argmax(1)


def survivors(errors: Tensor, count: int) -> Tensor:
    """Indices of the best `count` candidates, best first, ties in their order: ``[groups, count]``.

    Errors are compared in units of `RELATIVE_TIE` of the best, so that rounding does not order equal candidates.
    """
    unit = (errors.amin(1, keepdim=True) * RELATIVE_TIE).clamp(min=torch.finfo(errors.dtype).tiny)
    return torch.sort(torch.round(errors / unit), dim=1, stable=True).indices[:, :count]


def progressive_search(
    errors: Errors,
    grid: CandidateGrid,
    keep: int,
    steps: int,
    incumbent: tuple[Tensor, Tensor] | None = None,
    elitist: bool = False,
) -> tuple[Tensor, Tensor]:
    """Best scale and partner of every group.

    Args:
        errors: the error that is minimized.
        grid: the coarse candidates.
        keep: how many survive a pass; each is replaced by ``candidates // keep`` scales.
        steps: passes, the coarse one included.
        incumbent: parameters in use so far, ``[groups]`` each; considered by the elitist search only.
        elitist: whether survivors compete with their own refinements. The published search forgets them (no refined
            scale equals its origin), so that its error may rise from one pass to the next.

    Returns:
        scale and partner, ``[groups]`` each.
    """
    candidates = grid.scales.shape[1] * grid.scales.shape[2]
    members = max(2, candidates // keep)
    offsets = torch.linspace(0, 1, members, dtype=grid.scales.dtype, device=grid.scales.device) - 0.5
    spacing = grid.spacing[:, None, None]
    floor = grid.smallest_scale[:, None, None]
    scales, partners = grid.scales, grid.partners
    pool = None
    for step in range(steps):
        wanted = 1 if step == steps - 1 else keep
        found = errors(scales, partners, wanted).flatten(1)
        scale, partner = scales.flatten(1), partners.unsqueeze(-1).expand_as(scales).flatten(1)
        if elitist and step == 0 and incumbent is not None:
            pool = _evaluated(errors, incumbent)
        if pool is not None:
            found, scale, partner = (torch.cat(pair, 1) for pair in zip(pool, (found, scale, partner), strict=True))
        if wanted == 1 and grid.anchor is not None:
            anchor = _evaluated(errors, grid.anchor)
            found, scale, partner = (torch.cat(pair, 1) for pair in zip((found, scale, partner), anchor, strict=True))
        chosen = first_best(found).unsqueeze(1) if wanted == 1 else survivors(found, wanted)
        scale, partner = scale.gather(1, chosen), partner.gather(1, chosen)
        if elitist:
            pool = (found.gather(1, chosen), scale, partner)
        if step < steps - 1:
            scales = torch.maximum(scale.unsqueeze(-1) + offsets * spacing, floor)
            partners = partner
            spacing = spacing / (members - 0.5)
    return scale[:, 0], partner[:, 0]


def _evaluated(errors: Errors, parameters: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Error, scale and partner of a single candidate a group, ``[groups, 1]`` each."""
    scale, partner = (value.unsqueeze(1) for value in parameters)
    return errors(scale.unsqueeze(-1), partner, 1).flatten(1), scale, partner
