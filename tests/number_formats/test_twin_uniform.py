"""Twin uniform numbers: two regions with a step each, and the authors' overlapping ones."""

import pytest
import torch
from torch.nn import functional

from lampq.errors import LampQError
from lampq.number_formats.adalog import GELU_SHIFT
from lampq.number_formats.twin_uniform import PostGELUQuantizer, ProbabilityQuantizer


def probabilities(split, bits, overlapping=False):
    return ProbabilityQuantizer(torch.tensor(split), bits, overlapping)


def test_worked_values():
    x = torch.tensor([0.0, 0.03, 0.07, 0.5, 1.0])
    step = 1 / 16 / 7
    expected = torch.tensor([0.0, round(0.03 / step) * step, 1 / 16, 4 / 7, 1.0])
    torch.testing.assert_close(probabilities(2.0**-4, 4)(x), expected)


def test_worked_values_of_the_overlapping_regions():
    eight, four = probabilities(2.0**-4, 8, True), probabilities(2.0**-4, 4, True)
    torch.testing.assert_close(eight(torch.tensor([0.0, 1.0])), torch.tensor([8 / 127, 1.0625]))
    torch.testing.assert_close(four(torch.tensor([0.0, 0.5])), torch.tensor([0.0, 4 / 7 + 1 / 16]))


def test_probabilities_keep_their_order_and_fit_their_bits():
    for exponent in [0, 1, 3, 6]:
        for bits in [2, 3, 4, 8]:
            split, last = 2.0**-exponent, 2 ** (bits - 1) - 1
            x = torch.linspace(0, 1, 20_001)
            quantized = probabilities(split, bits)(x)
            assert (quantized[1:] >= quantized[:-1]).all() and quantized[0] == 0 and quantized[-1] == 1, (
                bits,
                exponent,
            )
            levels = quantized.unique()
            assert len(levels) <= 2**bits and len(levels[levels <= split]) == last + 1, (bits, exponent)
            below = x < split
            assert (quantized[below] - x[below]).abs().max() <= split / last / 2 + 1e-6, (bits, exponent)
            above = x > split + 0.5 / last  # nearer to the split the upper region's lowest level is the split itself
            assert not above.any() or (quantized[above] - x[above]).abs().max() <= 0.5 / last + 1e-6, (bits, exponent)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_post_gelu_values_have_all_their_codes_and_no_more(bits):
    x = functional.gelu(torch.linspace(-8, 8, 100_001))
    scale = x.max() / (2 ** (bits - 1) - 0.5)
    quantized = PostGELUQuantizer(scale, bits)(x)
    levels = quantized.unique()
    assert len(levels) == 2**bits and (levels == 0).sum() == 1
    half = 2 ** (bits - 1)
    torch.testing.assert_close(levels[levels < 0], torch.arange(-half, 0) * (GELU_SHIFT / half))
    torch.testing.assert_close(levels[levels > 0], torch.arange(1, half) * scale)


@pytest.mark.parametrize("make", [probabilities, lambda split, bits: PostGELUQuantizer(torch.tensor(split), bits)])
@pytest.mark.parametrize("bits", [1, 17])
def test_bits_out_of_range_are_refused(make, bits):
    with pytest.raises(LampQError, match=f"{bits}"):
        make(0.5, bits)
