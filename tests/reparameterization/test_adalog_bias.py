"""The bias absorbs the shift: same output, no subtraction in the number format."""

import pytest
import torch
from torch.nn import functional

from lampq.number_formats.adalog import AdaLogQuantizer
from lampq.reparameterization.adalog_bias import GELU_SHIFT, absorb_shift


def test_shift_is_minus_the_minimum_of_gelu():
    x = torch.linspace(-2, 0, 200001, dtype=torch.float64)
    assert functional.gelu(x).min().item() == pytest.approx(-GELU_SHIFT, abs=1e-7)


@pytest.mark.parametrize("has_bias", [True, False])
def test_output_is_unchanged(has_bias):
    torch.manual_seed(0)
    x = functional.gelu(torch.randn(30, 16, dtype=torch.float64))
    weight = torch.randn(6, 16, dtype=torch.float64)
    bias = torch.randn(6, dtype=torch.float64) if has_bias else None
    scale, log_base = torch.tensor(2.0, dtype=torch.float64), torch.tensor(25.0)
    before = AdaLogQuantizer(scale, log_base, 4, shift=GELU_SHIFT, offset=GELU_SHIFT)
    after = AdaLogQuantizer(scale, log_base, 4, shift=GELU_SHIFT)
    expected = functional.linear(before(x), weight, bias)
    torch.testing.assert_close(functional.linear(after(x), weight, absorb_shift(weight, bias)), expected)
