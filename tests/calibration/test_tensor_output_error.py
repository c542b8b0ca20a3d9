"""Output error for one scale a tensor, in all its shapes, against replaying the product."""

import pytest
import torch

from lampq.calibration import tensor_output_error, threshold_crossings
from lampq.calibration.candidate_formats import AdaLogFormat, UniformFormat
from lampq.calibration.direct_search import DirectTensorOutputError
from lampq.calibration.operand import Operand
from lampq.calibration.tensor_output_error import TensorOutputError

# batch of the operator, inner, outer: linear layers (wide, square, narrow), attention (scores, values)
SHAPES = [(1, 12, 40), (1, 16, 16), (1, 24, 8), (4, 8, 19), (4, 19, 19), (4, 19, 8)]


def example(shape, candidate_format, dtype=torch.float64, shift=0.0):
    batch, inner, outer = shape
    torch.manual_seed(0)
    x = torch.randn(4, 30, inner, dtype=dtype) * torch.logspace(-0.5, 0.5, inner, dtype=dtype)
    if isinstance(candidate_format, AdaLogFormat):
        x = torch.nn.functional.gelu(x)
    full = torch.randn(batch, inner, outer, dtype=dtype)
    return Operand(x, candidate_format, shift), (full * 4).round() / 4, full


def compare(arguments, scales, partners, tolerance):
    operand, operator, full = arguments
    found = TensorOutputError(*arguments)(scales, partners, scales.numel())
    double = Operand(operand.x.double(), operand.format, operand.shift)
    oracle = DirectTensorOutputError(double, operator.double(), full.double())
    torch.testing.assert_close(found, oracle(scales.double(), partners.double(), 1), rtol=tolerance, atol=0)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_uniform_far_and_near_scales(bits):
    for dtype, tolerance in [(torch.float64, 1e-10), (torch.float32, 3e-6)]:
        for shape in SHAPES:
            arguments = example(shape, UniformFormat(bits), dtype)
            largest = 6.0 / 2**bits
            far = torch.linspace(0.3, 1.5, 5, dtype=dtype) * largest
            near = largest * (1 + torch.linspace(-0.01, 0.01, 8, dtype=dtype))
            for scales in (far, near):
                partners = torch.tensor([[0.0, 2 ** (bits - 1), 2**bits - 1]], dtype=dtype)
                compare(arguments, scales.expand(1, 3, -1), partners, tolerance)


@pytest.mark.parametrize("bits", [1, 3, 4, 8])
def test_adalog_far_and_near_scales(bits):
    for shift in [0.0, 0.17]:
        for shape in SHAPES:
            arguments = example(shape, AdaLogFormat(bits), shift=shift)
            for spread in (0.5, 0.01):
                scales = 3 * (1 + torch.linspace(-spread, spread, 8, dtype=torch.float64))
                compare(arguments, scales.expand(1, 3, -1), torch.tensor([[10.0, 23.0, 60.0]]), 1e-9)


def test_near_scales_take_the_short_cut_and_far_ones_do_not(monkeypatch):
    calls = []
    original = tensor_output_error.crossing_errors
    monkeypatch.setattr(tensor_output_error, "crossing_errors", lambda *a: calls.append(a[3].numel()) or original(*a))
    error = TensorOutputError(*example(SHAPES[0], UniformFormat(3)))
    partners = torch.tensor([[4.0]])
    error((0.5 + 1e-4 * torch.arange(8.0, dtype=torch.float64)).view(1, 1, 8), partners, 1)
    assert calls == [8]
    error(torch.linspace(0.2, 2, 8, dtype=torch.float64).view(1, 1, 8), partners, 1)
    assert calls == [8]


@pytest.mark.parametrize("fraction", [0.0, 0.03, 1.0])
def test_how_much_is_evaluated_anew_does_not_matter(fraction, monkeypatch):
    monkeypatch.setattr(threshold_crossings, "CHANGED_FRACTION", fraction)
    scales = torch.linspace(0.3, 0.6, 20, dtype=torch.float64).view(1, 1, 20)
    for shape in SHAPES:
        compare(example(shape, UniformFormat(4)), scales, torch.tensor([[7.0]]), 1e-10)


def test_chunks_do_not_matter(monkeypatch):
    scales = torch.linspace(0.3, 0.6, 20).view(1, 1, 20)
    for shape in SHAPES:
        arguments = example(shape, UniformFormat(4), torch.float32)
        monkeypatch.setattr(tensor_output_error, "CHUNK_ELEMENTS", 2**17)
        whole = TensorOutputError(*arguments)(scales, torch.tensor([[7.0]]), 20)
        monkeypatch.setattr(tensor_output_error, "CHUNK_ELEMENTS", 1)
        pieces = TensorOutputError(*arguments)(scales, torch.tensor([[7.0]]), 20)
        torch.testing.assert_close(pieces, whole, rtol=1e-6, atol=0)


def test_only_what_is_wanted_must_be_exact():
    arguments = example(SHAPES[0], UniformFormat(3))
    scales = torch.linspace(0.05, 3, 40, dtype=torch.float64).view(1, 1, 40)
    partners = torch.tensor([[4.0]])
    complete = TensorOutputError(*arguments)(scales, partners, 40).flatten()
    best = TensorOutputError(*arguments)(scales, partners, 3).flatten()
    order = complete.argsort()[:3]
    assert torch.equal(best.argsort()[:3], order)
    torch.testing.assert_close(best[order], complete[order])
