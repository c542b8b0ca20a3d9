"""Every float32 input gets the format's own code."""

import pytest
import torch

from lampq.artefact.onnx.thresholds import thresholds
from lampq.number_formats.adalog import GELU_SHIFT, AdaLogQuantizer
from lampq.number_formats.log_sqrt2 import LogSqrt2Quantizer
from lampq.number_formats.uniform import AffineQuantizer

one, tensor = torch.ones(()), torch.tensor
FORMATS = {
    "falling codes": (AdaLogQuantizer(one, tensor(29.0), 4), 0.0, 1.0),
    "shifted": (AdaLogQuantizer(tensor(3.3), tensor(17.0), 8, GELU_SHIFT), -GELU_SHIFT, 9.0),
    "a zero": (LogSqrt2Quantizer(tensor(0.9), 3), 0.0, 1.0),
    "rising codes": (AffineQuantizer(tensor(0.37), tensor(5.0), 4), -9.0, 9.0),
}


@pytest.mark.parametrize("name", FORMATS)
def test_codes_by_thresholds_are_the_formats(name):
    number_format, low, high = FORMATS[name]
    codes, steps = thresholds(number_format, low, high)
    around = torch.cat([steps, torch.nextafter(steps, tensor(-torch.inf)), torch.linspace(low, high, 20_001)])
    around = around.clamp(low, high)
    found = codes[(around[:, None] >= steps).sum(1)]
    assert torch.equal(found, number_format.codes(around.clone()))
    assert len(steps) + 1 == len(number_format.codes(around.clone()).unique())
