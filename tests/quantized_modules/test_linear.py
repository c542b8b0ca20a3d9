"""QuantizedLinear: reparameterization, then quantization, then the product."""

import torch
from torch.nn import functional

from lampq.number_formats.uniform import AffineQuantizer
from lampq.quantized_modules.linear import QuantizedLinear


def test_input_is_reparameterized_then_quantized():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(5)
    scale, shift = torch.rand(4) + 0.5, torch.randn(4)
    quantize = AffineQuantizer(torch.tensor(0.3), torch.tensor(7.0), 4)
    module = QuantizedLinear(weight, bias, quantize, scale, shift)
    torch.testing.assert_close(module(x), functional.linear(quantize(x / scale - shift), weight, bias))
    assert module(x).shape == (2, 3, 5)


def test_state_dict_holds_everything_but_no_parameter_learns():
    module = QuantizedLinear(torch.randn(5, 4, requires_grad=True), None, None, torch.ones(4), torch.zeros(4))
    assert set(module.state_dict()) == {"weight", "channel_scale", "channel_shift"}
    assert not list(module.parameters()) and not module.weight.requires_grad
