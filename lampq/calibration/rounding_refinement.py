"""Rounding refinement: weights rounded the other way where that lowers the layer's output error.

Zhong et al., ERQ: Error Reduction for Post-Training Quantization of Vision Transformers, ICML 2024, "rounding
refinement", with the second moments of the inputs as proxy.
"""

import torch
from torch import Tensor

from lampq.number_formats.uniform import affine_codes


def refined_codes(
    weight: Tensor, second_moments: Tensor, scale: Tensor, zero_point: Tensor, bits: int, turns: int
) -> Tensor:
    """Codes of weights, near the nearest ones, with a small error ``d' C d`` in every row.

    d is the row's quantization error. One weight at a time, the one whose error adds most to the row's (the largest
    ``C d`` of those that have the sign of d) is rounded the other way, as long as the row's error does not rise.

    Args:
        weight: ``[rows, columns]``, float64.
        second_moments: C, the mean of x x' over the inputs x, ``[columns, columns]``.
        scale, zero_point: affine grid, broadcastable against `weight`.
        bits: of the grid; a weight beyond its ends has no other way.
        turns: how many weights of a row may be turned at most; 0 leaves all at the nearest code.

    Returns:
        codes, float64 ``[rows, columns]``.
    """
    codes = affine_codes(weight, scale, zero_point, bits)
    scale, zero_point = scale.expand_as(weight), zero_point.expand_as(weight)
    error = (codes - zero_point) * scale - weight
    outside = error.abs() > scale / 2 * (1 + 1e-9)
    product = error @ second_moments
    diagonal = second_moments.diagonal()
    rows = torch.arange(len(weight), device=weight.device)
    running = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
    for _ in range(turns):
        turned = codes - torch.sign(error)
        allowed = (error * product > 0) & ~outside & (turned >= 0) & (turned < 2**bits)
        column = torch.where(allowed, product.abs(), -1.0).argmax(1)
        change = -torch.sign(error[rows, column]) * scale[rows, column]
        rise = 2 * change * product[rows, column] + change.square() * diagonal[column]
        running &= allowed[rows, column] & (rise <= 0)
        if not running.any():
            break
        at, where = rows[running], column[running]
        step = change[running]
        codes[at, where] = turned[at, where]
        error[at, where] += step
        product[at] += step[:, None] * second_moments[where]
    return codes
