"""Adaptive rounding: exact at the start, a neighbouring code in the end, gradients as autograd has them."""

import pytest
import torch

from lampq.number_formats.uniform import affine_values
from lampq.reconstruction.rounding import (
    SoftRounding,
    logit,
    regularizer,
    regularizer_exponent,
    regularizer_slope,
    soft_place,
)

BITS = 3


def inside(weight, scale, zero_point):
    return (weight >= -zero_point * scale) & (weight <= (2**BITS - 1 - zero_point) * scale)


def test_soft_weights_are_the_full_precision_ones_at_the_start(rows):
    soft = SoftRounding(*rows, BITS).weight.detach()
    within = inside(*rows)
    assert 0.5 < within.float().mean() < 1
    torch.testing.assert_close(soft[within], rows[0][within], rtol=0, atol=1e-6)
    weight, scale, zero_point = rows
    ends = torch.minimum(torch.maximum(weight, -zero_point * scale), (2**BITS - 1 - zero_point) * scale)
    torch.testing.assert_close(soft, ends, rtol=0, atol=1e-6)


def test_hard_weights_are_floor_or_ceiling(rows):
    weight, scale, zero_point = rows
    rounding = SoftRounding(*rows, BITS)
    rounding.alpha.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    codes = rounding.codes()
    assert codes.min() >= 0 and codes.max() <= 2**BITS - 1
    lower, upper = ((weight / scale).floor() + add + zero_point for add in (0, 1))
    within = inside(*rows)
    assert ((codes == lower) | (codes == upper))[within].all() and (codes == lower).any() and (codes == upper).any()
    expected = torch.where(rounding.alpha >= 0, upper, lower).clamp(0, 2**BITS - 1)
    assert torch.equal(codes, expected.int())
    # Fully soft is where hard is, once alpha is far from 0.
    rounding.alpha.mul_(1e3)
    rounding.refresh()
    hard = affine_values(codes.float(), scale, zero_point)
    torch.testing.assert_close(rounding.weight.detach(), hard, rtol=0, atol=1e-6)


def test_golden_start_of_alpha():
    assert logit(torch.tensor(0.25)).item() == pytest.approx(-0.887303, abs=1e-6)
    assert logit(torch.tensor(0.5)).item() == pytest.approx(0, abs=1e-6)
    fractions = torch.linspace(0, 0.999, 50)
    torch.testing.assert_close(soft_place(logit(fractions)), fractions, rtol=0, atol=1e-6)


def test_without_training_weights_are_rounded_to_the_nearest(rows):
    weight, scale, zero_point = rows
    codes = SoftRounding(*rows, BITS).codes()
    assert torch.equal(codes, (torch.floor(weight / scale + 0.5) + zero_point).clamp(0, 2**BITS - 1).int())


def test_regularizer_by_hand():
    assert regularizer(torch.tensor([0.25]), 2).item() == pytest.approx(0.75)
    assert regularizer(torch.tensor([0.0, 1.0]), 2).item() == 0
    soft = torch.tensor([0.1, 0.25, 0.6, 0.9]).double().requires_grad_()
    regularizer(soft, 3.5).backward()
    torch.testing.assert_close(regularizer_slope(soft.detach(), 3.5), soft.grad)


@pytest.mark.parametrize("beta", [None, 2.0, 8.0])
def test_gradients_are_those_of_autograd(rows, beta):
    weight, scale, zero_point = (x.double() for x in rows)
    rounding = SoftRounding(weight, scale, zero_point, BITS)
    rounding.alpha += torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    rounding.refresh()
    alpha = rounding.alpha.clone().requires_grad_()
    free = ((weight / scale).floor() + zero_point >= 0) & ((weight / scale).floor() + zero_point < 2**BITS - 1)
    codes = ((weight / scale).floor() + soft_place(alpha) + zero_point).clamp(0, 2**BITS - 1)
    soft = affine_values(codes, scale, zero_point)
    torch.testing.assert_close(soft.detach(), rounding.weight.detach())
    loss = soft.sin().sum()
    if beta is not None:
        loss = loss + 0.3 * regularizer(soft_place(alpha), beta)
    loss.backward()
    rounding.backward(rounding.weight.detach().cos(), 0.3, beta)
    torch.testing.assert_close(rounding.alpha.grad[free], alpha.grad[free])
    assert (rounding.alpha.grad[free] != 0).any() and free.any()


def test_exponent_of_the_regularizer():
    at = [regularizer_exponent(step, 100, 0.2, 20.0, 2.0) for step in (0, 19, 20, 60, 100)]
    assert at == [None, None, 20.0, 11.0, 2.0]
    assert regularizer_exponent(0, 10, 0.0, 20.0, 2.0) == 20.0 and regularizer_exponent(9, 10, 1.0, 20.0, 2.0) is None
