"""Random Hadamard rotations ``R = D H / sqrt(d)``: every output channel is a sum of all inputs with signs.

H is a Hadamard matrix, of order 2^k (Sylvester) or ``H_12' kron H_2^k`` of order 12 * 2^k (H_12: Paley), D a diagonal
of random signs. An outlier in one channel is spread over all of them, so that a range for all channels is smaller.
"""

import numpy as np
import torch
from torch import Tensor

from lampq.errors import LampQError

SQUARES_MOD_11 = (1, 3, 4, 5, 9)
"""Quadratic residues, of which Paley's construction makes the matrix of order 12."""


def random_signs(shape: tuple[int, ...], *seed: int) -> Tensor:
    """1 or -1 (float64), the diagonal D of one rotation a row."""
    return torch.from_numpy(2.0 * np.random.default_rng(seed).integers(0, 2, shape) - 1)


def check_dimension(what: str, d: int) -> None:
    """See that there is a matrix of this order here.

    Args:
        what: has so many channels, for the message.

    Raises:
        LampQError: neither 2^k nor 12 * 2^k.
    """
    if _odd_part(d) not in (1, 3) or (_odd_part(d) == 3 and d % 4):
        raise LampQError(
            f"transform=hadamard: {what} has {d} channels, and there is a rotation of 2^k or 12 * 2^k; choose "
            "transform=none"
        )


def rotated(x: Tensor, signs: Tensor, axis: int = -1) -> Tensor:
    """``x R``, the vectors along an axis taken as rows.

    Sums run in a fixed order (fast Walsh-Hadamard transform), so that the result is the same on every machine.

    Args:
        x: float64, with d elements along the axis.
        signs: the diagonal of D, ``[..., d]``, broadcast over what is before the axis once that is the last one.
    """
    x = x.movedim(axis, -1) * signs.to(x.device)
    shape, d = x.shape, x.shape[-1]
    order = 12 if _odd_part(d) == 3 else 1
    x = x.reshape(*shape[:-1], order, d // order)
    span = 1
    while span < d // order:
        pairs = x.reshape(*shape[:-1], order, -1, 2, span)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        x = torch.stack([first + second, first - second], -2)
        span *= 2
    x = x.reshape(*shape[:-1], order, d // order)
    if order == 12:
        matrix = _order_12().to(x.device)
        x = sum(x[..., row, None, :] * matrix[:, row, None] for row in range(12))  # x H_12'
    return (x.reshape(shape) / d**0.5).movedim(-1, axis)


def _order_12() -> Tensor:
    """Paley's Hadamard matrix of order 12 (float64): rows are orthogonal."""
    residues = [[0 if i == j else 1 if (i - j) % 11 in SQUARES_MOD_11 else -1 for j in range(11)] for i in range(11)]
    skew = torch.zeros(12, 12, dtype=torch.float64)
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, torch.tensor(residues, dtype=torch.float64)
    return skew + torch.eye(12, dtype=torch.float64)


def _odd_part(d: int) -> int:
    return d // (d & -d)
