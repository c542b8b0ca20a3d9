"""Row-wise output error from Gram matrices against replaying the layer."""

import pytest
import torch

from lampq.calibration.candidate_formats import BinaryFormat, UniformFormat
from lampq.calibration.candidates import uniform_grid, weight_zero_points
from lampq.calibration.direct_search import DirectRowOutputError
from lampq.calibration.row_output_error import RowOutputError, distinct_levels


def example(dtype, rows=7, inner=24, samples=150):
    torch.manual_seed(0)
    inputs = torch.randn(samples, inner, dtype=dtype) * torch.logspace(-1, 1, inner, dtype=dtype)
    quantized = (inputs * 8).round() / 8
    return torch.randn(rows, inner, dtype=dtype), inputs, quantized


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 2e-6)])
@pytest.mark.parametrize("are_inputs_quantized", [True, False])
def test_equals_replaying_the_layer(dtype, tolerance, are_inputs_quantized):
    for bits in [1, 2, 3, 4, 6, 8, 12]:
        weight, inputs, quantized = example(dtype)
        grid = uniform_grid(weight.sort(1).values, bits, weight_zero_points(bits), 64)
        arguments = (UniformFormat(bits), weight, inputs, quantized if are_inputs_quantized else None)
        fast = RowOutputError(*arguments)(grid.scales, grid.partners, 1)
        oracle = DirectRowOutputError(UniformFormat(bits), *(t if t is None else t.double() for t in arguments[1:]))
        direct = oracle(grid.scales.double(), grid.partners.double(), 1)
        torch.testing.assert_close(fast, direct, rtol=tolerance, atol=0)


def test_binary_weights():
    weight, inputs, quantized = example(torch.float64)
    scales = torch.rand(7, 1, 5, dtype=torch.float64) + 0.2
    arguments = (BinaryFormat(), weight, inputs, quantized)
    fast = RowOutputError(*arguments)(scales, torch.zeros(7, 1), 1)
    torch.testing.assert_close(fast, DirectRowOutputError(*arguments)(scales, torch.zeros(7, 1), 1))


def test_chunks_do_not_matter(monkeypatch):
    weight, inputs, quantized = example(torch.float32)
    grid = uniform_grid(weight.sort(1).values, 4, weight_zero_points(4), 64)
    whole = RowOutputError(UniformFormat(4), weight, inputs, quantized)(grid.scales, grid.partners, 1)
    monkeypatch.setattr("lampq.calibration.row_output_error.CHUNK_ELEMENTS", 1)
    monkeypatch.setattr("lampq.calibration.row_output_error.GRAM_ROWS", 7)
    pieces = RowOutputError(UniformFormat(4), weight, inputs, quantized)(grid.scales, grid.partners, 1)
    torch.testing.assert_close(pieces, whole, rtol=1e-6, atol=0)


def test_candidates_with_equal_levels_are_found():
    levels = torch.tensor([[[[1.0, -2.0], [1.0, -2.0]], [[1.0, -1.0], [0.0, -1.0]]]] * 2)
    representative, inverse = distinct_levels(levels, torch.tensor([[3.0, 4.0]] * 2))
    assert representative.numel() == 6
    inner = levels.view(-1, 2)
    assert torch.equal(inner[representative][inverse], inner)
    assert inverse[0] == inverse[1] and inverse[0] != inverse[4]
