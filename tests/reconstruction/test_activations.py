"""Trained formats: values of the format they start from, gradients straight through, dropping element by element."""

import numpy as np
import pytest
import torch

from lampq.number_formats.adalog import AdaLogQuantizer
from lampq.number_formats.uniform import AffineQuantizer
from lampq.reconstruction.activations import TrainedAdaLog, TrainedAffine
from lampq.reconstruction.dropping import Dropping, mixed, quantized_elements


def values(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def affine(dropping):
    return TrainedAffine(AffineQuantizer(torch.tensor(0.3), torch.tensor(3.0), 3), dropping)


def head_wise(dropping):
    scale, zero_point = torch.tensor([0.2, 0.4]).view(2, 1, 1), torch.tensor([2.0, 5.0]).view(2, 1, 1)
    return TrainedAffine(AffineQuantizer(scale, zero_point, 3), dropping)


def adalog(dropping):
    return TrainedAdaLog(AdaLogQuantizer(torch.tensor(1.1), torch.tensor(20.0), 3, 0.2, 0.2), dropping, True)


@pytest.mark.parametrize("build", [affine, head_wise, adalog])
def test_values_are_those_of_the_format(build):
    x = values(4, 2, 5, 6)
    trained = build(Dropping(1.0))
    format = trained._format[0] if build is adalog else None
    if format is None:
        format = AffineQuantizer(trained.scale, -trained._low, 3)
    torch.testing.assert_close(trained(x), format(x), rtol=0, atol=1e-6)


def straight_through(x, scale, low, high):
    """The same by autograd: rounding has the derivative of the identity."""
    ratio = x / scale
    level = ratio + (ratio.round() - ratio).detach()
    return torch.where(level < low, low, torch.where(level > high, high, level)) * scale


@pytest.mark.parametrize("build", [affine, head_wise])
def test_gradients_of_a_uniform_format(build):
    x, weights = values(4, 2, 5, 6), values(4, 2, 5, 6, seed=1)
    trained = build(Dropping(1.0)).double()
    trained.scale = trained.scale.detach().double().requires_grad_()
    mine, theirs = (x.double().requires_grad_() for _ in range(2))
    scale = trained.scale.detach().clone().requires_grad_()
    low, high = trained._low.double(), trained._high.double()
    (trained(mine) * weights).sum().backward()
    (straight_through(theirs, scale, low, high) * weights).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)
    torch.testing.assert_close(trained.scale.grad, scale.grad)
    assert (mine.grad == 0).any() and (mine.grad != 0).any()


def test_gradients_of_the_logarithmic_format():
    """By x: value / (x + shift), 0 where the value is zero or x above the scale. By the scale: 1 where x is above."""
    trained = adalog(Dropping(1.0))
    x = torch.tensor([-0.2, -0.199, 0.0, 0.3, 0.89, 1.0, 3.0], requires_grad=True)
    y = trained(x)
    y.sum().backward()
    value = y.detach() + 0.2
    expected = torch.where((value > 0) & (x.detach() + 0.2 <= 1.1), value / (x.detach() + 0.2), 0.0)
    torch.testing.assert_close(x.grad, expected, rtol=1e-5, atol=1e-6)
    assert x.grad[0] == 0 and x.grad[2] > 0.5 and x.grad[-1] == 0
    assert trained.scale.grad.item() == 2
    fixed = TrainedAdaLog(AdaLogQuantizer(torch.tensor(1.0), torch.tensor(37.0), 3), Dropping(1.0), False)
    assert not fixed.scale.requires_grad and fixed(torch.rand(3)).shape == (3,)


@pytest.mark.parametrize("build", [affine, head_wise, adalog])
def test_dropped_elements_are_in_full_precision_and_have_the_gradient_of_the_identity(build):
    dropping = Dropping(0.5)
    trained, x = build(dropping), values(8, 2, 5, 6).requires_grad_()
    with torch.no_grad():
        whole = trained(x)
    with dropping.drawn_from(np.random.default_rng(1)):
        y = trained(x)
    y.sum().backward()
    kept = y == x
    assert 0.4 < kept.float().mean() < 0.6 and (x.grad[kept] == 1).all()
    assert torch.equal(y[~kept], whole[~kept])
    assert torch.equal(trained(x), whole), "outside of training everything is quantized"


@pytest.mark.parametrize("build", [affine, adalog])
def test_limits_of_dropping(build):
    x = values(3, 2, 5, 6)
    for probability in (0.0, 1.0):
        dropping = Dropping(probability)
        trained = build(dropping)
        with dropping.drawn_from(np.random.default_rng(1)):
            torch.testing.assert_close(trained(x), trained(x) if probability else x, rtol=0, atol=0)
            assert torch.equal(trained(x), x) == (probability == 0)


def test_inputs_are_mixed():
    quantized, full_precision = values(4, 50, 6), values(4, 50, 6, seed=1)
    generator = np.random.default_rng(0)
    assert mixed(quantized, full_precision, generator, 1.0) is quantized, "pure quantized input"
    assert mixed(quantized, full_precision, generator, 0.0) is full_precision
    mix = mixed(quantized, full_precision, generator, 0.25)
    share = torch.isclose(mix, quantized).float().mean()
    assert 0.2 < share < 0.3 and (torch.isclose(mix, quantized) | torch.isclose(mix, full_precision)).all()


def test_what_is_drawn_lies_in_memory_as_what_it_is_for():
    """Of a transposed view as well; the number of ones is what was asked for."""
    like = values(4, 3, 30, 20).transpose(2, 3)
    drawn = quantized_elements(np.random.default_rng(0), like, 64)
    assert drawn.shape == like.shape and drawn.stride() == like.stride()
    assert set(drawn.unique().tolist()) == {0.0, 1.0} and abs(drawn.mean() - 0.25) < 0.03
    sliced = values(2, 6, 5, 3, 4).permute(1, 0, 3, 2, 4)[0]
    assert quantized_elements(np.random.default_rng(0), sliced, 128).mean() == pytest.approx(0.5, abs=0.2)
