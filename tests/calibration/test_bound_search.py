"""Ends of a range searched by themselves: no worse than fixed quantiles, each head by itself, zero stays a value."""

import torch

from lampq.calibration.alternating_search import AlternatingSearch
from lampq.calibration.bound_search import HIGHEST, LOWEST, BoundSearch
from lampq.calibration.candidates import sorted_quantiles
from lampq.number_formats.uniform import affine_from_range, fake_quantize_affine

BITS = 3


def operands(seed=0):
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(3, 2, 12, 12, generator=generator).mul(3).softmax(-1)
    v = torch.randn(3, 2, 12, 8, generator=generator) * torch.tensor([1.0, 20.0]).view(1, 2, 1, 1) + 0.5
    return p, v


def search(values=33, rounds=3):
    return BoundSearch(AlternatingSearch(32, rounds, 1), values)


def product_error(p, v, of_p, of_v):
    quantized = [
        fake_quantize_affine(x, scale.view(-1, 1, 1), zero_point.view(-1, 1, 1), BITS)
        for x, (scale, zero_point) in ((p, of_p), (v, of_v))
    ]
    return (quantized[0] @ quantized[1] - p @ v).square().sum((0, 2, 3))


def test_the_product_of_each_head_is_better_than_with_the_ends_that_it_starts_from():
    p, v = operands()
    found = search().product(p, v, BITS)
    start = []
    for x in (p, v):
        ascending = x.transpose(0, 1).flatten(1).sort(1).values
        low, _, _, high = sorted_quantiles(ascending, (*LOWEST, *HIGHEST))
        start.append(affine_from_range(low, high, BITS))
    errors, before = product_error(p, v, *found), product_error(p, v, *start)
    assert (errors < before).all()


def test_zero_points_are_codes_and_that_of_probabilities_is_zero():
    (scale, zero_point), (other_scale, other) = search().product(*operands(), BITS)
    assert zero_point.tolist() == [0, 0] and scale.shape == (2,) and (scale > 0).all()
    assert torch.equal(other, other.round()) and other.min() >= 0 and other.max() <= 7
    assert other_scale[1] > 10 * other_scale[0]


def test_a_head_does_not_depend_on_the_others():
    p, v = operands()
    together = search().product(p, v, BITS)
    alone = search().product(p[:, 1:], v[:, 1:], BITS)
    for mine, theirs in zip(together, alone, strict=True):
        assert all(torch.equal(a[1:], b) for a, b in zip(mine, theirs, strict=True))


def test_more_values_and_more_rounds_are_different_searches():
    p, v = operands()

    def scales(**settings):
        return torch.cat([scale for scale, _ in search(**settings).product(p, v, BITS)])

    assert not torch.equal(scales(), scales(values=9)) and not torch.equal(scales(), scales(rounds=1))
