"""Log sqrt 2 numbers against hand-worked values."""

import math

import pytest
import torch

from lampq.errors import LampQError
from lampq.number_formats.log_sqrt2 import LogSqrt2Quantizer, log_sqrt2_levels


def quantizer(scale, bits, extra_zero=False):
    return LogSqrt2Quantizer(torch.tensor(scale, dtype=torch.float64), bits, extra_zero)


def test_levels():
    root = math.sqrt(0.5)
    assert log_sqrt2_levels(2, True).tolist() == pytest.approx([1, root, 0.5, root / 2, 0])
    assert log_sqrt2_levels(2).tolist() == pytest.approx([1, root, 0.5, 0])
    assert log_sqrt2_levels(3, True)[4:].tolist() == pytest.approx([0.25, 0.17678, 0.125, 0.08839, 0], abs=1e-5)


def test_codes_of_single_values():
    x = torch.tensor([0.6, 0.05, 2.0, 0.0], dtype=torch.float64)
    beside, among = quantizer(1.0, 3, extra_zero=True), quantizer(1.0, 3)
    assert beside.codes(x).tolist() == [1, 8, 0, 8] and among.codes(x).tolist() == [1, 7, 0, 7]
    assert beside(x).tolist() == pytest.approx([math.sqrt(0.5), 0, 1, 0])
    smallest = torch.tensor([0.0883], dtype=torch.float64)
    assert beside(smallest).item() > 0 == among(smallest).item()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_as_many_values_as_the_bits_can_tell_apart_and_one_more_where_asked(bits):
    x = torch.rand(40000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 120
    for extra_zero in (False, True):
        number_format = quantizer(0.9, bits, extra_zero)
        once = number_format(x)
        assert once.unique().numel() == 2**bits + extra_zero
        assert torch.equal(number_format(once), once), "quantizing again changes nothing"
        assert torch.equal(number_format.dequantize(number_format.codes(x)), once)


def test_bits_out_of_range_are_refused():
    with pytest.raises(LampQError, match="bits: 0"):
        quantizer(1.0, 0)
