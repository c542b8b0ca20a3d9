"""The density estimate: values by hand, a gradient that is exact, and chunks that change nothing."""

import math

import pytest
import torch

import lampq.datasets.psaq.entropy as entropy
from lampq.datasets.psaq.entropy import FLOOR, differential_entropy, evaluation_points

H = 0.01


def samples(sets=3, count=40, seed=0, dtype=torch.float64):
    return torch.rand(sets, count, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plainly(values, counts, grid, bandwidth):
    """The same, written as the formula stands, with autograd's own gradient."""
    kernels = torch.exp(-((values[:, :, None] - grid) ** 2) / (2 * bandwidth**2)) / (bandwidth * math.sqrt(2 * math.pi))
    density = (kernels * counts[:, None]).sum(1) / counts.sum() + FLOOR
    return torch.trapezoid(-density * density.log(), grid)


def test_two_values():
    """Density at the ends is half a kernel's peak, 19.947: two of nine intervals count it once in all."""
    values = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    found = differential_entropy(values, torch.ones(2).double(), evaluation_points(values, 10), H)
    assert found.item() == pytest.approx(-6.633, abs=1e-3)


def test_uniform_values():
    values = torch.linspace(0, 1, 20001, dtype=torch.float64)[None]
    found = differential_entropy(values, torch.ones(20001).double(), evaluation_points(values, 10), H)
    assert found.item() == pytest.approx(0.0384, abs=1e-4)


def test_equal_values_have_entropy_0_and_no_gradient():
    values = torch.full((2, 5), 0.7, requires_grad=True)
    found = differential_entropy(values, torch.ones(5), evaluation_points(values, 10), H)
    found.sum().backward()
    assert found.tolist() == [0, 0] and values.grad.abs().sum() == 0


def test_the_grid_goes_from_the_least_to_the_largest_of_all_and_has_no_gradient():
    grid = evaluation_points(torch.tensor([[0.5, -0.25], [0.75, 0.0]], requires_grad=True), 5)
    assert grid.tolist() == [-0.25, 0.0, 0.25, 0.5, 0.75] and not grid.requires_grad


@pytest.mark.parametrize("bandwidth", [0.01, 0.2])
def test_value_and_gradient_are_those_of_the_formula(bandwidth):
    values, counts = samples().requires_grad_(), torch.arange(1, 41).double()
    grid, upstream = evaluation_points(values, 10), torch.tensor([1.0, -2.0, 0.5]).double()
    expected = plainly(values, counts, grid, bandwidth)
    (gradient,) = torch.autograd.grad(expected @ upstream, values)
    found = differential_entropy(values, counts, grid, bandwidth)
    (found_gradient,) = torch.autograd.grad(found @ upstream, values)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-9, atol=1e-12)
    assert gradient.abs().max() > 1e-3


def test_a_sample_that_counts_twice_is_two_samples():
    values, grid = samples(count=6), torch.linspace(0, 1, 10).double()
    once = differential_entropy(torch.cat([values, values[:, :2]], 1), torch.ones(8).double(), grid, 0.1)
    twice = differential_entropy(values, torch.tensor([2, 2, 1, 1, 1, 1]).double(), grid, 0.1)
    torch.testing.assert_close(twice, once, rtol=1e-12, atol=0)


def test_chunks_change_nothing(monkeypatch):
    values, counts = samples(sets=7, count=300, dtype=torch.float32), torch.ones(300)
    found = []
    for kernels in (1, 2 * 3000, 1 << 30):
        monkeypatch.setattr(entropy, "KERNELS", kernels)
        each = values.clone().requires_grad_()
        result = differential_entropy(each, counts, evaluation_points(each, 10), H)
        result.sum().backward()
        found.append((result.detach(), each.grad))
    for result, gradient in found[1:]:
        assert torch.equal(result, found[0][0]) and torch.equal(gradient, found[0][1])


def test_exponents_that_underflow_are_nothing(monkeypatch):
    """What spares the slow path of the exponential changes no float32 density."""
    values, counts = samples(count=500, dtype=torch.float32), torch.ones(500)
    grid = evaluation_points(values, 10)
    clamped = differential_entropy(values, counts, grid, H)
    monkeypatch.setattr(entropy, "VANISHING", -math.inf)
    assert torch.equal(clamped, differential_entropy(values, counts, grid, H))


def test_bandwidth_and_number_of_points_matter():
    values, counts = samples(), torch.ones(40).double()
    found = [
        differential_entropy(values, counts, evaluation_points(values, points), bandwidth)
        for points, bandwidth in ((10, 0.01), (20, 0.01), (10, 0.05))
    ]
    assert not torch.allclose(found[0], found[1]) and not torch.allclose(found[0], found[2])
