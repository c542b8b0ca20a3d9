"""Candidate grids against the published table."""

import pytest
import torch

from lampq.calibration.candidates import (
    activation_zero_points,
    convolution_zero_points,
    log_bases,
    positive_scales,
    sorted_quantiles,
    uniform_grid,
    weight_zero_points,
)

# bits: first and last zero point, and how many scales, for weights, activations and patch convolutions.
TABLE = {
    1: ((0, 0, 128), (0, 1, 64), (0, 0, 128)),
    2: ((1, 2, 64), (0, 3, 32), (1, 2, 64)),
    3: ((2, 5, 32), (0, 7, 16), (2, 5, 32)),
    4: ((4, 11, 16), (0, 15, 8), (4, 11, 16)),
    5: ((8, 23, 8), (8, 23, 8), (8, 23, 8)),
    6: ((24, 39, 8), (24, 39, 8), (16, 47, 4)),
    7: ((56, 71, 8), (56, 71, 8), (32, 95, 2)),
    8: ((120, 135, 8), (120, 135, 8), (64, 191, 1)),
}


def test_windows_and_numbers_of_scales():
    for bits in TABLE:
        ascending = torch.randn(3, 50).sort(1).values
        windows = (weight_zero_points(bits), activation_zero_points(bits), convolution_zero_points(bits, 128))
        for window, (first, last, scales) in zip(windows, TABLE[bits], strict=True):
            grid = uniform_grid(ascending, bits, window, 128)
            assert window == list(range(first, last + 1)), bits
            assert grid.scales.shape == (3, len(window), scales) and grid.partners[0].tolist() == window, bits


def test_more_bits_than_candidates_still_give_a_grid():
    grid = uniform_grid(torch.randn(1, 50).sort(1).values, 16, convolution_zero_points(16, 128), 128)
    assert grid.scales.shape == (1, 128, 1)


def test_scales_run_from_interquantile_range_to_full_range():
    values = torch.randn(2, 301, dtype=torch.float64)
    grid = uniform_grid(values.sort(1).values, 3, [3, 4], 128)
    quantiles = torch.quantile(values, torch.tensor([0, 0.1, 0.9, 1], dtype=torch.float64), dim=1)
    torch.testing.assert_close(grid.scales[:, 0, 0], (quantiles[2] - quantiles[1]) / 7)
    torch.testing.assert_close(grid.scales[:, 1, -1], (quantiles[3] - quantiles[0]) / 7)
    torch.testing.assert_close(grid.scales[:, 0].diff(dim=1), grid.spacing[:, None].expand(2, 63))
    assert grid.second_largest()[0].tolist() == grid.scales[:, 1, -2].tolist()
    assert grid.second_largest()[1].tolist() == [4, 4]


@pytest.mark.parametrize("size", [1, 2, 10, 11])
def test_quantiles_interpolate_like_the_definition(size):
    values = torch.randn(3, size, dtype=torch.float64)
    fractions = (0.0, 0.1, 0.5, 0.9, 1.0)
    expected = torch.quantile(values, torch.tensor(fractions, dtype=torch.float64), dim=1)
    torch.testing.assert_close(sorted_quantiles(values.sort(1).values, fractions), expected)


@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
def test_constant_values_have_positive_scales_that_represent_them(value):
    grid = uniform_grid(torch.full((1, 20), value), 3, [2, 3, 4, 5], 128)
    assert (grid.scales > 0).all() and torch.isfinite(grid.scales).all()
    steps = value / grid.scales[0, 0, -1]
    assert steps == pytest.approx(round(steps.item())) and abs(steps) <= 7


def test_log_bases_are_ten_to_one_hundred_thirty_seven():
    like = torch.zeros(1)
    assert log_bases(128, like).tolist() == list(range(10, 138))
    assert log_bases(256, like).tolist() == list(range(10, 138))
    assert log_bases(32, like).tolist() == list(range(10, 138, 4))


def test_post_gelu_scales_come_from_positive_values_only():
    ascending = torch.tensor([-3.0, -2.0, 0.0, *range(1, 11)])
    scales = positive_scales(ascending, 0.5, 3)
    assert scales.tolist() == [9.5, 10.0, 10.5]  # rank ceil(10 * 0.9) = 9 of the ten positive values
    assert positive_scales(torch.tensor([-3.0, -2.0]), 0.5, 3).tolist() == [0.5, 0.5, 0.5]
