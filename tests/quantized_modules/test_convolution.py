"""QuantizedConvolution takes over everything but the weight."""

import torch
from torch import nn

from lampq.quantized_modules.convolution import QuantizedConvolution


def test_geometry_of_the_original_is_kept():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3, stride=2, padding=1, dilation=2)
    images = torch.randn(2, 3, 12, 12)
    assert torch.equal(QuantizedConvolution(layer.weight, layer)(images), layer(images))
    assert torch.equal(QuantizedConvolution(layer.weight, layer, nn.ReLU())(images), layer(images.relu()))
