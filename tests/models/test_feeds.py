"""What feeds a layer is seen in a run of the model, and formats follow it, whatever the layer is called."""

from functools import partial

import pytest
import torch
from timm.layers import Attention, RmsNorm, SwiGLUPacked
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import nn
from torch.nn import functional

from lampq.base_quantizers.adalog import AdaLog
from lampq.base_quantizers.aphq_vit import APHQViT
from lampq.base_quantizers.erq import ERQ
from lampq.base_quantizers.ptq4vit import PTQ4ViT
from lampq.base_quantizers.repq_vit import RepQViT
from lampq.calibration.observation import Observer
from lampq.errors import LampQError
from lampq.models.feeds import Feeds, fed_by, source_of
from lampq.models.timm_adapters import adapt
from lampq.plan.bits import Bits
from lampq.plan.budget import packed_bytes
from lampq.plan.sites import LAYER_TYPES
from tests.allocation.budgets import budget
from tests.small_models import images, vit_adapter

SIZE = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 5}
USUAL = ("layernorm", "other", "layernorm", "gelu")
VARIANTS = {
    "plain": ({}, USUAL),
    "layer scale, registers": ({"init_values": 0.1, "reg_tokens": 2}, USUAL),
    "pooled": ({"class_token": False, "global_pool": "avg"}, USUAL),
    "norm before the blocks": ({"pre_norm": True, "qk_norm": True}, USUAL),
    "tanh in the GELU": ({"act_layer": "gelu_tanh"}, USUAL),
    "SiLU": ({"act_layer": "silu"}, ("layernorm", "other", "layernorm", "other")),
    "gated": ({"mlp_layer": SwiGLUPacked}, ("layernorm", "other", "layernorm", "other")),
    "norms behind": ({"scale_mlp_norm": True, "scale_attn_norm": True}, ("layernorm",) * 4),
    "residual post-norm": ({"block_fn": ResPostBlock}, ("other", "other", "other", "gelu")),
    "no bias to fold into": ({"norm_layer": RmsNorm}, ("other", "other", "other", "gelu")),
}


def variant(name="plain", **changes):
    torch.manual_seed(0)
    network = VisionTransformer(**SIZE, **{**VARIANTS[name][0], **changes})
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return network


def adapted(network):
    return adapt("small", network, input_size=(3, 16, 16))


def layers(adapter):
    return {site.type: site for site in adapter.sites if site.allocated}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_feeds_the_layers_of_a_vit(name):
    found = layers(adapted(variant(name)))
    assert tuple(found[kind].fed_by for kind in LAYER_TYPES) == VARIANTS[name][1]


@pytest.mark.parametrize("name", VARIANTS)
def test_explicit_attention_computes_what_timm_does(name):
    adapter = adapted(variant(name))
    pictures = images(adapter, 2)
    with torch.inference_mode():
        expected = variant(name).eval()(pictures)
        torch.testing.assert_close(adapter.run(pictures), expected, rtol=1e-5, atol=1e-5)


def test_a_norm_that_a_gate_reads_too_cannot_be_folded_into():
    def gated():
        network = variant()
        network.blocks[0].attn = Attention(32, 2, qkv_bias=True, gated=True)
        return network

    adapter = adapted(gated())
    assert layers(adapter)["qkv"].fed_by == "other" and layers(adapter)["fc1"].fed_by == "layernorm"
    assert adapter.unquantized() == {"blocks.0.attn.gate": 32 * 33}
    network, pictures = gated(), images(adapter, 2)
    network.load_state_dict(adapter.network.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(adapter.run(pictures), network.eval()(pictures), rtol=1e-5, atol=1e-5)


def test_another_attention_is_refused_by_name():
    class OwnAttention(Attention):
        def forward(self, x, attn_mask=None, is_causal=False):
            return -super().forward(x)

    network = variant()
    network.blocks[0].attn = OwnAttention(32, 2)
    with pytest.raises(LampQError, match="OwnAttention of block 0 is not supported"):
        adapted(network)


QUANTIZERS = {"adalog": AdaLog(), "ptq4vit": PTQ4ViT(metric="mse"), "repq_vit": RepQViT(), "erq": ERQ()}


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("name", ["SiLU", "norms behind"])
def test_a_layer_that_no_gelu_feeds_is_close_at_8_bits(name, quantizer):
    """With a post-GELU format its error is 0.05 and more."""
    adapter, method = adapted(variant(name)), QUANTIZERS[quantizer].independent
    site = layers(adapter)["fc2"]
    layer, inputs = adapter.module(site.name), Observer(adapter, lambda: images(adapter, 16), 2**30).inputs(site)
    state = method.calibrate(site, layer, inputs, Bits(8, 8))
    expected = layer(*inputs)
    moved = method.quantized_module(site, layer, state, Bits(8, 8))(*inputs) - expected
    assert moved.norm() < 0.02 * expected.norm()
    assert ("channel_scale" in state) is (name == "norms behind" and quantizer != "ptq4vit")


def test_the_identity_says_what_feeds_a_layer_where_it_is_unusual():
    plain, behind = variant(), variant(block_fn=ResPostBlock)
    behind.load_state_dict(plain.state_dict())
    assert adapted(plain).weights_hash() != adapted(behind).weights_hash()


def test_relu_takes_the_place_of_a_gelu_only():
    APHQViT().check_model(vit_adapter())
    for name in ("SiLU", "norms behind"):
        with pytest.raises(LampQError, match=r"has no GELU before blocks.0.mlp.fc2; set it to false"):
            APHQViT().check_model(adapted(variant(name)))
    APHQViT(mlp_reconstruction=False).check_model(adapted(variant("SiLU")))


def test_an_output_that_is_changed_in_place_is_no_such_output_any_more():
    with torch.no_grad(), Feeds():
        x = functional.gelu(torch.ones(2, 3))
        part = x.view(3, 2)[:, :1]
        assert source_of(part).kind == "gelu"
        x.mul_(2)
        assert source_of(part) is source_of(x) is None
        padded = [functional.pad(functional.gelu(torch.ones(2)), (1, 1), value=value) for value in (None, -1.0)]
        assert [fed_by([source_of(one)]) for one in padded] == ["gelu", "other"]


@pytest.mark.parametrize("changes", [{"norm_layer": partial(nn.LayerNorm, bias=False)}, {"class_token": False}])
def test_parts_without_sites_are_named(changes):
    pooled = changes.get("class_token") is False
    adapter = adapted(variant(**changes, **({"global_pool": "map"} if pooled else {})))
    parameters = sum(p.numel() for name, p in adapter.network.named_parameters() if name.startswith("attn_pool."))
    assert adapter.unquantized() == ({"attn_pool": parameters} if pooled else {})
    assert layers(adapter)["fc1"].fed_by == ("layernorm" if pooled else "other")


def test_a_part_without_sites_counts_with_32_bits_in_the_packed_model():
    adapter = adapted(variant(class_token=False, global_pool="map"))
    plan = budget(4).plan(adapter.sites, {site.name: 4 for site in adapter.sites if site.allocated})
    bits = {f"{site.name}.weight": site.weight_bits for site in plan.sites if site.weight_bits is not None}
    by_hand = sum(p.numel() * bits.get(name, 32) / 8 for name, p in adapter.network.named_parameters())
    assert packed_bytes(adapter.sites, plan, adapter.parameters(), 0) == by_hand and len(bits) == 6


def test_a_hybrid_stem_is_no_patch_embedding():
    import timm

    with torch.device("meta"):
        network = timm.create_model("vit_tiny_r_s16_p8_224", img_size=64)
    adapter = adapt("hybrid", network, input_size=(3, 64, 64))
    assert not [site for site in adapter.sites if site.type == "patch_embed"]
    assert adapter.unquantized() == {"patch_embed": sum(p.numel() for p in network.patch_embed.parameters())}
