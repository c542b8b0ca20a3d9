"""Reparameterized layers in a Swin whose windows do not divide the map: padding comes after the LayerNorm."""

import torch

from lampq.quantized_modules.linear import QuantizedLinear
from lampq.reparameterization.layernorm import transform_layer
from tests.small_models import images, swin_adapter


def reparameterized(adapter):
    """A twin in which every layer after a LayerNorm has r and t of its own, and nothing is quantized."""
    twin = adapter.clone()
    generator = torch.Generator().manual_seed(3)
    for site in adapter.sites:
        if site.after_layernorm:
            layer = adapter.module(site.name)
            channels = layer.weight.shape[1]
            scale = torch.rand(channels, generator=generator).double() + 0.5
            shift = torch.randn(channels, generator=generator).double()
            weight, bias = transform_layer(layer.weight, layer.bias, scale, shift)
            twin.replace_module(site.name, QuantizedLinear(weight, bias, None, scale, shift))
    return twin


def test_the_full_precision_function_is_unchanged():
    adapter = swin_adapter()
    adapter.network.double()
    x = images(adapter, 3).double()
    with torch.inference_mode():
        assert torch.allclose(reparameterized(adapter).run(x), adapter.run(x), rtol=1e-12, atol=1e-12)


def test_a_shift_inside_the_layernorm_would_change_the_padding():
    """The trap that the layer's own input transformation avoids: zeros of the padding would miss the shift."""
    adapter = swin_adapter()
    adapter.network.double()
    twin = reparameterized(adapter)
    for stage in twin.network.layers:
        for block in stage.blocks:
            layer = block.attn.qkv
            block.norm1.weight = torch.nn.Parameter(block.norm1.weight / layer.channel_scale, requires_grad=False)
            bias = block.norm1.bias / layer.channel_scale - layer.channel_shift
            block.norm1.bias = torch.nn.Parameter(bias, requires_grad=False)
            block.attn.qkv = QuantizedLinear(layer.weight, layer.bias)
    x = images(adapter, 3).double()
    with torch.inference_mode():
        assert not torch.allclose(twin.run(x), adapter.run(x), rtol=1e-3, atol=1e-3)
