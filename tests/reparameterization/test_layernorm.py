"""Scale reparameterization keeps the layer's function and turns channel-wise into per-tensor quantization."""

import pytest
import torch
from torch import nn

from lampq.number_formats.uniform import affine_codes, affine_from_range
from lampq.reparameterization.layernorm import reparameterize, transform_input, transform_layer


def channel_parameters(bits=4):
    torch.manual_seed(0)
    x = torch.randn(40, 12, dtype=torch.float64) * torch.logspace(-1, 1, 12, dtype=torch.float64) + torch.randn(12)
    return x, *affine_from_range(x.amin(0), x.amax(0), bits)


@pytest.mark.parametrize("has_bias", [True, False])
def test_layer_output_is_unchanged(has_bias):
    x, scale, zero_point = channel_parameters()
    layer = nn.Linear(12, 5, bias=has_bias).double()
    found = reparameterize(scale, zero_point)
    weight, bias = transform_layer(layer.weight, layer.bias, found.channel_scale, found.channel_shift)
    output = nn.functional.linear(transform_input(x, found.channel_scale, found.channel_shift), weight, bias)
    torch.testing.assert_close(output, layer(x), atol=1e-12, rtol=1e-12)


def test_per_tensor_codes_equal_channel_wise_codes():
    x, scale, zero_point = channel_parameters()
    found = reparameterize(scale, zero_point)
    transformed = transform_input(x, found.channel_scale, found.channel_shift)
    per_tensor = torch.round(transformed / found.scale) + found.zero_point
    channel_wise = torch.round(x / scale) + zero_point
    assert torch.equal(per_tensor, channel_wise)
    assert torch.equal(
        affine_codes(transformed, found.scale, found.zero_point, 4), affine_codes(x, scale, zero_point, 4)
    )
