"""Attention as products between modules: timm's function, with operands that can be quantized."""

import pytest
import torch
from timm.layers import Attention
from timm.models.swin_transformer import WindowAttention
from torch import nn

from lampq.errors import LampQError
from lampq.quantized_modules.attention import ExplicitAttention, ExplicitWindowAttention
from lampq.quantized_modules.matmul import QuantizedMatMul
from tests.small_models import distilled_adapter, images, swin_adapter, vit_adapter


def shaken(module):
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.double().eval().requires_grad_(False)


OPTIONS = {
    "plain": {},
    "norms of q, k and the output": {"qk_norm": True, "scale_norm": True, "norm_layer": nn.LayerNorm},
    "gated": {"gated": True},
    "narrow heads": {"attn_head_dim": 5},
    "no bias": {"qkv_bias": False, "proj_bias": False},
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("options", OPTIONS)
def test_vit_attention(options, fused):
    attention = shaken(Attention(24, num_heads=3, **OPTIONS[options]))
    attention.fused_attn = fused
    x = torch.randn(2, 7, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ExplicitAttention(attention)(x), attention(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_window_attention(masked, fused):
    """Six windows are two images of three windows, each with a mask of its own."""
    attention = shaken(WindowAttention(16, num_heads=2, window_size=(3, 2)))
    attention.fused_attn = fused
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 6, 16, dtype=torch.float64, generator=generator)
    mask = -100.0 * (torch.rand(3, 6, 6, generator=generator) < 0.3).double() if masked else None
    expected = attention(x, mask=mask)
    torch.testing.assert_close(ExplicitWindowAttention(attention)(x, mask=mask), expected, rtol=0, atol=1e-13)
    if masked:
        assert (expected - attention(x)).abs().max() > 1e-3


def test_masked_attention_is_refused_in_one_line():
    attention = ExplicitAttention(shaken(Attention(24, num_heads=3)))
    x = torch.zeros(1, 4, 24, dtype=torch.float64)
    for masks in ({"attn_mask": torch.zeros(4, 4)}, {"is_causal": True}):
        with pytest.raises(LampQError, match="masked attention"):
            attention(x, **masks)


class Rounded(nn.Module):
    """The coarsest of formats, which counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return (2 * x).round() / 2


@pytest.mark.parametrize("build", [vit_adapter, distilled_adapter, swin_adapter])
@pytest.mark.parametrize("type", ["qk", "pv"])
@pytest.mark.parametrize("operand", [0, 1])
def test_each_operand_alone_is_in_the_path_whatever_timm_would_fuse(build, type, operand):
    adapter = build()
    for module in adapter.network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = True
    pictures = images(adapter, 2)
    expected = adapter.run(pictures)
    for site in [site for site in adapter.sites if site.type == type]:
        twin, quantizer = adapter.clone(), Rounded()
        twin.replace_module(site.name, QuantizedMatMul(*((quantizer, None) if operand == 0 else (None, quantizer))))
        assert (twin.run(pictures) - expected).abs().max() > 1e-4 and quantizer.calls == 1
        quantizer.calls = 0
        assert (twin.network(pictures) - expected).abs().max() > 1e-4 and quantizer.calls == 1


def test_vit_multiplies_q_itself_and_swin_the_scaled_q():
    """Where the factor 1 / sqrt(d_head) stands decides what the quantizer of q sees."""
    seen = []
    vit, swin = Attention(24, num_heads=3), WindowAttention(16, num_heads=2, window_size=(2, 2))
    for attention, explicit in ((vit, ExplicitAttention(shaken(vit))), (swin, ExplicitWindowAttention(shaken(swin)))):
        explicit.qk.register_forward_pre_hook(lambda module, operands: seen.append(operands[0]))
        x = torch.randn(1, 4, attention.qkv.in_features, dtype=torch.float64)
        q = attention.qkv(x).view(1, 4, 3, attention.num_heads, 8)[:, :, 0].transpose(1, 2)
        explicit(x)
        torch.testing.assert_close(seen[-1], q if attention is vit else q / 8**0.5)
