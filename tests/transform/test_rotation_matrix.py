"""Rotations are orthogonal, of the orders that ViTs have, and those of the paper."""

import pytest
import torch
from scipy.linalg import hadamard

from lampq.errors import LampQError
from lampq.transform.rotation_matrix import check_dimension, random_signs, rotated


def matrix(d, *seed):
    return rotated(torch.eye(d, dtype=torch.float64), random_signs((d,), *seed))


@pytest.mark.parametrize("d", [1, 2, 8, 12, 24, 64, 96, 192, 384, 768])
def test_rows_are_orthonormal_and_all_entries_of_one_size(d):
    found = matrix(d, 0)
    torch.testing.assert_close(found @ found.T, torch.eye(d, dtype=torch.float64), rtol=0, atol=1e-13)
    assert torch.allclose(found.abs(), torch.full_like(found, d**-0.5), rtol=1e-13)


@pytest.mark.parametrize("d", [64, 192])
def test_it_is_signs_times_the_hadamard_matrix(d):
    """Of order 12 * 2^k: ``H_12' kron H_2^k``, with H_12 as the small case has it."""
    signs = random_signs((d,), 0)
    of_12 = matrix(12, 0) * random_signs((12,), 0)[:, None] * 12**0.5
    sylvester = torch.from_numpy(hadamard(64 if d == 64 else 16)).double()
    expected = sylvester if d == 64 else torch.kron(of_12, sylvester)
    torch.testing.assert_close(matrix(d, 0), signs[:, None] * expected / d**0.5, rtol=1e-13, atol=1e-15)


def test_any_axis_and_several_rotations_at_once():
    x, signs = torch.randn(3, 8, 5, dtype=torch.float64), random_signs((3, 8), 1)
    for row in range(3):
        own = rotated(torch.eye(8, dtype=torch.float64), signs[row])
        torch.testing.assert_close(rotated(x, signs[0], 1)[row], own_of(signs[0]).T @ x[row], rtol=1e-12, atol=1e-12)
        moved = rotated(x.movedim(1, 2).movedim(0, 1), signs)[:, row]
        torch.testing.assert_close(moved, x[row].T @ own, rtol=1e-12, atol=1e-12)


def own_of(signs):
    return rotated(torch.eye(len(signs), dtype=torch.float64), signs)


def test_signs_follow_the_seed():
    assert torch.equal(random_signs((64,), 3, 1), random_signs((64,), 3, 1))
    assert len({tuple(random_signs((64,), *seed).tolist()) for seed in [(3, 1), (3, 2), (4, 1)]}) == 3


def test_an_outlier_is_spread_over_all_channels():
    x = torch.zeros(192, dtype=torch.float64)
    x[7] = 100
    assert rotated(x, random_signs((192,), 0)).abs().max() == pytest.approx(100 / 192**0.5)


@pytest.mark.parametrize("d", [3, 6, 20, 36, 80, 1280])
def test_other_orders_are_refused_by_name(d):
    with pytest.raises(
        LampQError, match=rf"^transform=hadamard: a head of x has {d} channels, .*choose transform=none"
    ):
        check_dimension("a head of x", d)
