"""A LayerNorm and the layers that read it are an RMSNorm of centred inputs and other layers."""

import pytest
import torch
from timm.models.vision_transformer import LayerScale
from torch import nn

from lampq.transform.layernorm_folding import centred, fold_layer_scale, fold_layernorm


def shaken(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.double()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("of_norm", [{}, {"bias": False}, {"elementwise_affine": False}], ids=str)
def test_the_layers_give_what_they_gave(of_norm, bias):
    norm = shaken(nn.LayerNorm(6, eps=0.1, **of_norm))
    layers = [shaken(nn.Linear(6, 4, bias=bias)) for _ in range(2)]
    x = torch.randn(3, 6, dtype=torch.float64)
    expected = [layer(norm(x)) for layer in layers]
    folded = fold_layernorm(norm, layers)
    assert isinstance(folded, nn.RMSNorm) and not list(folded.parameters()) and folded.eps == 0.1
    for layer, before in zip(layers, expected, strict=True):
        torch.testing.assert_close(layer(folded(centred(x))), before, rtol=1e-12, atol=1e-12)
        assert (layer.bias is not None) is (bias or norm.bias is not None)


def test_layer_scale_goes_into_the_projection():
    scale, layer, x = shaken(LayerScale(4)), shaken(nn.Linear(6, 4)), torch.randn(3, 6, dtype=torch.float64)
    expected = scale(layer(x))
    torch.testing.assert_close(fold_layer_scale(scale, layer)(layer(x)), expected, rtol=1e-12, atol=1e-12)


def test_parameters_are_replaced_and_not_written_to():
    norm, layer = shaken(nn.LayerNorm(6)), shaken(nn.Linear(6, 4))
    weight, before = layer.weight, layer.weight.clone()
    fold_layernorm(norm, [layer])
    assert layer.weight is not weight and torch.equal(weight, before) and not torch.equal(layer.weight, before)
