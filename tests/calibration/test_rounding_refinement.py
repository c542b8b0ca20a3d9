"""Rounding refinement: two weights by hand, and what holds for any."""

import pytest
import torch

from lampq.calibration.rounding_refinement import refined_codes
from lampq.number_formats.uniform import affine_codes, affine_from_range

ONE, NONE = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)


def energy(codes, weight, moments, scale, zero_point):
    error = (codes - zero_point) * scale - weight
    return ((error @ moments) * error).sum(1)


def random_problem(rows=7, columns=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = 1 + torch.randn(90, columns, generator=generator, dtype=torch.float64)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    scale, zero_point = (parameter[:, None] for parameter in affine_from_range(weight.amin(1), weight.amax(1), 3))
    return weight, inputs.T @ inputs / 90, scale, zero_point


def test_two_weights_by_hand():
    """Errors .4 and .4: turning one makes the error .088 instead of .608."""
    weight, moments = torch.tensor([[0.6, 0.6]]).double(), torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double()
    assert refined_codes(weight, moments, ONE, NONE, 2, 0).tolist() == [[1, 1]]
    codes = refined_codes(weight, moments, ONE, NONE, 2, 100)
    assert sorted(codes[0].tolist()) == [0, 1]
    assert energy(codes, weight, moments, ONE, NONE).item() == pytest.approx(0.088)


def test_every_turn_lowers_the_error_of_a_row_and_keeps_to_the_two_neighbours():
    weight, moments, scale, zero_point = random_problem()
    before = None
    for turns in (0, 1, 2, 5, 100):
        codes = refined_codes(weight, moments, scale, zero_point, 3, turns)
        now = energy(codes, weight, moments, scale, zero_point)
        assert before is None or (now <= before).all()
        before = now
        exact = (weight / scale + zero_point).clamp(0, 7)
        assert ((codes - exact).abs() < 1).all() and torch.equal(codes, codes.round())
    nearest = affine_codes(weight, scale, zero_point, 3)
    assert before.sum() < 0.9 * energy(nearest, weight, moments, scale, zero_point).sum()


def test_a_row_is_done_where_its_largest_gradient_is_that_of_a_clipped_weight():
    weight, moments = torch.tensor([[0.6, 0.6, 9.0]]).double(), torch.full((3, 3), 0.9).double().fill_diagonal_(1)
    moments[2, :2] = moments[:2, 2] = -0.9
    assert refined_codes(weight, moments, ONE, NONE, 2, 100).tolist() == [[1, 1, 3]]


def test_a_step_that_ends_nearer_to_the_weights_own_value_changes_nothing():
    weight, moments = torch.tensor([[0.6, 0.6]]).double(), 0.1 * torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double()
    assert refined_codes(weight, moments, ONE, NONE, 2, 100).tolist() == [[1, 1]]


def test_rows_do_not_know_each_other():
    weight, moments, scale, zero_point = random_problem()
    together = refined_codes(weight, moments, scale, zero_point, 3, 100)
    for row in range(len(weight)):
        part = slice(row, row + 1)
        alone = refined_codes(weight[part], moments, scale[part], zero_point[part], 3, 100)
        assert torch.equal(alone, together[part])


def test_without_correlation_nothing_is_turned():
    weight, moments, scale, zero_point = random_problem()
    codes = refined_codes(weight, torch.diag(moments.diagonal()), scale, zero_point, 3, 100)
    assert torch.equal(codes, affine_codes(weight, scale, zero_point, 3))
