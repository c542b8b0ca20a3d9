"""Uniform formats against hand-worked examples."""

import pytest
import torch

from lampq.errors import LampQError
from lampq.number_formats.uniform import AffineQuantizer, SymmetricQuantizer, affine_from_range


def test_affine_min_max_example():
    x = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    scale, zero_point = affine_from_range(x.min(), x.max(), 2)
    assert (scale, zero_point) == (1, 1)
    quantizer = AffineQuantizer(scale, zero_point, 2)
    assert quantizer.codes(x).tolist() == [0, 1, 1, 3]  # the tie at one half goes to the even integer
    assert quantizer(x).tolist() == [-1, 0, 0, 2]


def test_symmetric_example():
    quantizer = SymmetricQuantizer(torch.tensor(1 / 3.5, dtype=torch.float64), 3)
    x = torch.tensor([-1.0, 0.3, 0.9], dtype=torch.float64)
    assert quantizer.codes(x).tolist() == [-4, 1, 3]
    assert quantizer(x).tolist() == pytest.approx([-1.142857, 0.285714, 0.857143], abs=1e-6)


def test_codes_fit_the_bits_and_dequantize_to_the_forward():
    for bits in range(1, 17):
        x = torch.randn(50, 7, generator=torch.Generator().manual_seed(bits))
        affine = AffineQuantizer(*affine_from_range(x.amin(0), x.amax(0), bits), bits)
        symmetric = SymmetricQuantizer(x.abs().amax(0) / 2 ** (bits - 1), bits)
        for quantizer, lowest in ((affine, 0), (symmetric, -(2 ** (bits - 1)))):
            codes = quantizer.codes(x)
            assert codes.min() >= lowest and codes.max() <= lowest + 2**bits - 1, bits
            assert torch.equal(quantizer.dequantize(codes), quantizer(x)), bits
        # Inside the range the error is at most half a step (one step for the largest value of the zero-point rounding).
        assert ((affine(x) - x).abs() <= affine.scale * (1 + 1e-4)).all(), bits


def test_range_always_contains_zero_and_constant_zero_works():
    scale, zero_point = affine_from_range(torch.tensor([2.0, -3.0, 0.0]), torch.tensor([3.0, -2.0, 0.0]), 4)
    assert zero_point.tolist() == [0, 15, 0]
    assert torch.equal(AffineQuantizer(scale, zero_point, 4)(torch.zeros(3)), torch.zeros(3))


@pytest.mark.parametrize("bits", [0, 17, 2.0, True])
def test_impossible_bits_are_refused(bits):
    with pytest.raises(LampQError, match="1 to 16"):
        AffineQuantizer(torch.ones(()), torch.zeros(()), bits)
