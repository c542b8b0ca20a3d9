"""What number formats have in common: a value is its code's, codes are whole steps, and arguments make it again."""

import pytest
import torch

from lampq.errors import LampQError
from lampq.number_formats.adalog import GELU_SHIFT, AdaLogQuantizer
from lampq.number_formats.binary import BinaryQuantizer
from lampq.number_formats.log_sqrt2 import LogSqrt2Quantizer
from lampq.number_formats.twin_uniform import PostGELUQuantizer, ProbabilityQuantizer
from lampq.number_formats.uniform import AffineQuantizer, SymmetricQuantizer

one, tensor = torch.ones(()), torch.tensor
SPREAD = torch.linspace(-3, 5, 4001)
PROBABILITIES = torch.cat([torch.linspace(0, 1, 2001), torch.logspace(-9, 0, 2000)])
FORMATS = {
    "affine": (AffineQuantizer(tensor(0.37), tensor(5.0), 4), SPREAD),
    "affine by rows": (AffineQuantizer(tensor([[0.37], [0.1]]), tensor([[5.0], [1.0]]), 3), SPREAD[:4000].view(2, -1)),
    "symmetric": (SymmetricQuantizer(tensor(0.21), 5), SPREAD),
    "binary": (BinaryQuantizer(tensor(0.4)), SPREAD),
    "adalog": (AdaLogQuantizer(one, tensor(29.0), 4), PROBABILITIES),
    "adalog, shifted": (AdaLogQuantizer(tensor(3.3), tensor(17.0), 3, GELU_SHIFT), SPREAD.clamp(min=-GELU_SHIFT)),
    "log sqrt 2": (LogSqrt2Quantizer(tensor(0.9), 4), PROBABILITIES),
    "log sqrt 2, a zero more": (LogSqrt2Quantizer(tensor(0.9), 3, True), PROBABILITIES),
    "twin, probabilities": (ProbabilityQuantizer(tensor([2.0**-3]), 4), PROBABILITIES),
    "twin, post-GELU": (PostGELUQuantizer(tensor([0.3]), 4), SPREAD.clamp(min=-GELU_SHIFT)),
}


@pytest.fixture(params=FORMATS)
def made(request):
    return FORMATS[request.param]


def test_a_value_is_that_of_its_code(made):
    number_format, x = made
    codes = number_format.codes(x.clone())
    assert codes.dtype == torch.int32 and torch.equal(number_format.dequantize(codes), number_format(x.clone()))
    assert len(codes.unique()) <= 2**number_format.bits + 1


def test_a_value_is_a_whole_number_of_steps(made):
    number_format, x = made
    codes = number_format.codes(x.clone())
    parts = number_format.integers(codes)
    assert all(torch.equal(numbers, numbers.round()) for numbers, _ in parts)
    total = sum(numbers * step.double() for numbers, step in parts)
    torch.testing.assert_close(total.float(), number_format.dequantize(codes), rtol=1e-6, atol=1e-9)


def test_it_is_made_again_of_what_it_names(made):
    number_format, x = made
    arguments = {name: getattr(number_format, name) for name in (*number_format.tensors, *number_format.constants)}
    assert torch.equal(type(number_format)(**arguments)(x.clone()), number_format(x.clone()))


@pytest.mark.parametrize(
    "number_format",
    [
        AffineQuantizer(tensor(0.3), tensor(2.5), 3),
        AdaLogQuantizer(one, tensor(37.0), 8),
        AdaLogQuantizer(one, tensor(37.0), 3, 0.1, 0.1),
        LogSqrt2Quantizer(one, 8),
    ],
)
def test_what_is_no_whole_steps_is_refused(number_format):
    with pytest.raises(LampQError, match="whole steps"):
        number_format.integers(number_format.codes(PROBABILITIES))


def test_overlapping_regions_have_no_codes():
    with pytest.raises(LampQError, match="more values than codes"):
        ProbabilityQuantizer(tensor(0.25), 4, overlapping=True).codes(PROBABILITIES)
