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

    d is the row's quantization error, ``2 C d`` its gradient. One weight at a time, the one with the largest gradient
    of those whose gradient has the sign of d, goes to whichever of its two neighbouring values is nearer to where one
    step against the gradient would lead. A row is done when that is where the weight is, or when its error would rise.

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
    gradient = 2 * (error @ second_moments)
    diagonal = second_moments.diagonal()
    rows = torch.arange(len(weight), device=weight.device)
    running = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
    for _ in range(turns):
        column = torch.where(error * gradient > 0, gradient.abs(), -1.0).argmax(1)
        own_error, own_gradient, step = error[rows, column], gradient[rows, column], scale[rows, column]
        turned = codes[rows, column] - torch.sign(own_error)
        change = -torch.sign(own_error) * step
        rise = change * own_gradient + change.square() * diagonal[column]
        running &= (own_error * own_gradient > 0) & (own_gradient.abs() > step / 2) & (rise <= 0)
        running &= (turned >= 0) & (turned < 2**bits) & ~outside[rows, column]
        if not running.any():
            break
        at, where = rows[running], column[running]
        codes[at, where] = turned[running]
        error[at, where] += change[running]
        gradient[at] += 2 * change[running, None] * second_moments[where]
    return codes
