"""Weights trained straight through: run as their nearest values, moved from code to code."""

import torch

from lampq.number_formats.uniform import fake_quantize_affine
from lampq.reconstruction.straight_through_weights import StraightThroughWeights

BITS = 3


def test_a_block_is_run_with_the_nearest_values(rows):
    weight, scale, zero_point = rows
    weights = StraightThroughWeights(*rows, BITS)
    assert torch.equal(weights.weight, fake_quantize_affine(weight, scale, zero_point, BITS))
    assert torch.equal(weights.trained, weight) and weights.trained.data_ptr() != weight.data_ptr()


def test_codes_give_these_values(rows):
    _, scale, zero_point = rows
    weights = StraightThroughWeights(*rows, BITS)
    codes = weights.codes()
    assert codes.dtype == torch.int32 and codes.min() == 0 and codes.max() == 2**BITS - 1
    assert torch.equal((codes - zero_point) * scale, weights.weight)


def test_gradients_are_those_of_the_identity_inside_the_range(rows):
    weight, scale, zero_point = rows
    weights, gradient = StraightThroughWeights(*rows, BITS), torch.randn(5, 40)
    weights.backward(gradient.clone(), 0.3, 2.0)
    level = (weight / scale).round()
    outside = (level < -zero_point) | (level > 2**BITS - 1 - zero_point)
    assert outside.any() and (weights.trained.grad[outside] == 0).all()
    assert torch.equal(weights.trained.grad[~outside], gradient[~outside])


def test_what_was_trained_is_run_after_the_next_refresh(rows):
    weights = StraightThroughWeights(*rows, BITS)
    before, leaf = weights.weight.detach().clone(), weights.weight
    weights.trained.add_(2 * rows[1])
    assert torch.equal(weights.weight, before)
    weights.refresh()
    assert weights.weight is leaf and leaf.requires_grad
    changed = weights.weight != before
    torch.testing.assert_close((weights.weight - before)[changed].max(), 2 * rows[1].max())
