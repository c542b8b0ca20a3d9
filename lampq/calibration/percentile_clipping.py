"""Percentile clipping: of a few ranges between percentiles, the one whose format reproduces the values best.

Li et al., RepQ-ViT, ICCV 2023 (inputs and weights), Zhong et al., ERQ, ICML 2024 (weights, more percentiles).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lampq.number_formats.log_sqrt2 import LogSqrt2Quantizer
from lampq.number_formats.uniform import affine_from_range, fake_quantize_affine

FRACTIONS = (0.999, 0.9999, 0.99999)
"""Upper ends tried, as fractions of the values below them; the lower end is the mirror image."""

CHUNK_ELEMENTS = 2**17

TIE = 1e-6
"""Relative difference of errors that counts as none: the first range wins."""

NO_RANGE = 1e-4
"""A range below this fraction of the values' size is the rounding noise of a constant."""


def upper_quantiles(values: Tensor, fractions: tuple[float, ...]) -> Tensor:
    """Quantiles close to the maximum, by linear interpolation, without sorting everything.

    Args:
        values: ``[groups, values]``.

    Returns:
        ``[fractions, groups]``
    """
    last = values.shape[1] - 1
    # A lower quantile is this one of the negative values, and 1 - fraction loses digits: positions from above.
    depths = [(1 - fraction) * last for fraction in fractions]
    largest = values.topk(min(math.ceil(max(depths)) + 1, last + 1), dim=1).values
    above = [math.floor(depth) for depth in depths]
    below = [min(index + 1, largest.shape[1] - 1) for index in above]
    weight = torch.tensor([d - i for d, i in zip(depths, above, strict=True)], dtype=torch.float64).to(values)
    return torch.lerp(largest[:, above], largest[:, below], weight).T


def affine_between(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the affine format whose values run from about `low` to about `high`.

    Zero need not lie between them: the zero point may be an integer that is no code. Where the two are equal there
    is no step; the format then runs from zero to that value (scale 1 for zero itself).

    Returns:
        scale and integer-valued zero point, each of the shape of `low`.
    """
    scale = (high - low) / (2**bits - 1)
    size = torch.maximum(low.abs(), high.abs())
    constant = (high - low) <= (NO_RANGE * size).clamp(min=torch.finfo(size.dtype).tiny * 2**bits)
    scale_of_constant, zero_of_constant = affine_from_range(low, high, bits)
    zero_point = torch.round(-low / torch.where(constant, torch.ones_like(scale), scale))
    return torch.where(constant, scale_of_constant, scale), torch.where(constant, zero_of_constant, zero_point)


def clipped_range(values: Tensor, bits: int, fractions: tuple[float, ...] = FRACTIONS) -> tuple[Tensor, Tensor]:
    """The range of every group, of those between two percentiles, with the least squared error of its values.

    Args:
        values: ``[groups, values]``.
        bits: of the affine format.
        fractions: ranges to try: from the quantile ``1 - fraction`` to the quantile ``fraction``.

    Returns:
        low and high end, ``[groups]`` each.
    """
    highs, lows = upper_quantiles(values, fractions), -upper_quantiles(-values, fractions)
    formats = [affine_between(low, high, bits) for low, high in zip(lows, highs, strict=True)]

    def error(candidate: int) -> Tensor:
        scale, zero_point = (parameter[:, None] for parameter in formats[candidate])
        return _squared_error(values, lambda x, rows: fake_quantize_affine(x, scale[rows], zero_point[rows], bits))

    best = _first_best([error(candidate) for candidate in range(len(fractions))])
    return lows.gather(0, best[None])[0], highs.gather(0, best[None])[0]


def clipped_log_scale(values: Tensor, bits: int, extra_zero: bool = False) -> Tensor:
    """Scale of the log sqrt 2 format, of the upper percentiles, with the least squared error of the values; a scalar.

    Args:
        values: not negative, any shape.
        extra_zero: see `lampq.number_formats.log_sqrt2`.
    """
    flat = values.reshape(1, -1)
    scales = upper_quantiles(flat, FRACTIONS)[:, 0]
    scales = torch.where(scales > torch.finfo(scales.dtype).tiny, scales, torch.ones_like(scales))
    errors = []
    for scale in scales:
        quantizer = LogSqrt2Quantizer(scale, bits, extra_zero)
        errors.append(_squared_error(flat, lambda x, rows, quantizer=quantizer: quantizer(x)))
    return scales[_first_best(errors)[0]]


def _squared_error(values: Tensor, fake_quantize: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """Sum of squared errors of each group, float64 ``[groups]``, over chunks of a fixed size."""
    groups, count = values.shape
    errors = torch.zeros(groups, dtype=torch.float64, device=values.device)
    columns = min(count, CHUNK_ELEMENTS)
    rows = max(1, CHUNK_ELEMENTS // columns)
    for row in range(0, groups, rows):
        place = slice(row, row + rows)
        for column in range(0, count, columns):
            x = values[place, column : column + columns]
            errors[place] += fake_quantize(x, place).sub_(x).double().square_().sum(1)
    return errors


def _first_best(errors: list[Tensor]) -> Tensor:
    """Index of the least error of every group, ``[groups]``; of those that tie the first."""
    stacked = torch.stack(errors)
    near = stacked <= stacked.amin(0) * (1 + TIE)
    return near.to(torch.uint8).argmax(0)
