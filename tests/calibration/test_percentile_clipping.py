"""Percentile clipping: quantiles without sorting, and ranges against what the authors' own code answered."""

from pathlib import Path

import numpy
import pytest
import torch

from lampq.calibration.percentile_clipping import (
    FRACTIONS,
    affine_between,
    clipped_log_scale,
    clipped_range,
    upper_quantiles,
)
from lampq.number_formats.log_sqrt2 import LogSqrt2Quantizer
from lampq.number_formats.uniform import fake_quantize_affine

GOLDEN = Path(__file__).parent.parent / "golden"
BITS = (2, 3, 4, 8)


def golden(name, bits):
    with numpy.load(GOLDEN / f"repq_{name}_{bits}bit.npz") as arrays:
        return {key: torch.tensor(arrays[key], dtype=torch.float64) for key in arrays.files}


@pytest.mark.parametrize("count", [1, 2, 7, 300, 25_000])
def test_quantiles_are_those_of_sorted_values(count):
    x = torch.randn(3, count, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
    fractions = (*FRACTIONS, 0.9, 1.0)
    expected = torch.quantile(x, torch.tensor(fractions, dtype=torch.float64), dim=1)
    torch.testing.assert_close(upper_quantiles(x, fractions), expected, rtol=1e-9, atol=1e-9)


def test_the_authors_range():
    for name, groups in [
        ("weight", lambda values: values["weight"]),
        ("activation", lambda values: values["input"].reshape(1, -1)),
        ("channelwise", lambda values: values["input"].flatten(0, 1).T.contiguous()),
    ]:
        for bits in BITS:
            values = golden(name, bits)
            x = groups(values)
            scale, zero_point = affine_between(*clipped_range(x, bits), bits)
            torch.testing.assert_close(scale, values["scale"].view(-1), rtol=2e-6, atol=0)
            assert torch.equal(zero_point, values["zero_point"].view(-1)), (name, groups, bits)
            quantized = fake_quantize_affine(x, scale[:, None], zero_point[:, None], bits)
            expected = groups({"weight": values["output"], "input": values["output"]})
            torch.testing.assert_close(quantized, expected, rtol=2e-6, atol=1e-6)
            again = fake_quantize_affine(quantized, scale[:, None], zero_point[:, None], bits)
            torch.testing.assert_close(again, quantized, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bits", BITS)
def test_the_authors_scale_of_probabilities(bits):
    values = golden("logsqrt2", bits)
    scale = clipped_log_scale(values["input"], bits, extra_zero=True)
    torch.testing.assert_close(scale, values["scale"], rtol=2e-6, atol=0)
    quantized = LogSqrt2Quantizer(scale, bits, extra_zero=True)(values["input"])
    torch.testing.assert_close(quantized, values["output"], rtol=2e-6, atol=1e-6)


def test_the_best_of_the_ranges_is_taken_group_by_group():
    generator = torch.Generator().manual_seed(0)
    plain = torch.rand(20_000, generator=generator)
    outliers = plain.clone()
    outliers[:5] = 3.0
    _, high = clipped_range(torch.stack([plain, outliers]), 4)
    assert high[0] > 0.999, "nothing to clip"
    assert high[1] < 1.1, "a few outliers are clipped at few bits"
    assert clipped_range(outliers[None], 8, (0.999, 1.0))[1] == 3.0


def test_chunks_do_not_change_the_answer(monkeypatch):
    x = torch.randn(6, 700, generator=torch.Generator().manual_seed(0)) ** 3
    whole = clipped_range(x, 3, (0.9, 0.95, 0.99, 1.0))
    for elements in (64, 1000, 2000):
        monkeypatch.setattr("lampq.calibration.percentile_clipping.CHUNK_ELEMENTS", elements)
        assert all(torch.equal(a, b) for a, b in zip(whole, clipped_range(x, 3, (0.9, 0.95, 0.99, 1.0)), strict=True))


@pytest.mark.parametrize("value", [0.0, 3.5, -0.25])
def test_a_constant_can_be_represented(value):
    x = torch.full((1, 50), value)
    scale, zero_point = affine_between(*clipped_range(x, 4), 4)
    assert scale > 0 and scale.isfinite().all()
    torch.testing.assert_close(fake_quantize_affine(x, scale[:, None], zero_point[:, None], 4), x)


def test_zero_need_not_be_inside():
    scale, zero_point = affine_between(torch.tensor([10.0]), torch.tensor([13.0]), 2)
    assert (scale.item(), zero_point.item()) == (1.0, -10.0)
    x = torch.tensor([9.0, 10.2, 12.6, 99.0])
    assert fake_quantize_affine(x, scale, zero_point, 2).tolist() == [10, 10, 13, 13]


def test_probabilities_of_zero():
    assert clipped_log_scale(torch.zeros(5, 5), 4) == 1
