"""timm models cut into segments: the same function, with the sites where they belong."""

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer

from lampq.errors import LampQError
from lampq.models.timm_adapters import adapt
from tests.small_models import SWIN_SIDE, VIT, VIT_SIDE, distilled, images, swin, vision_transformer

NETWORKS = {
    "vit": vision_transformer,
    "distilled": distilled,
    "average pooling": lambda: vision_transformer(2, class_token=False, global_pool="avg"),
    "registers, LayerScale": lambda: vision_transformer(2, reg_tokens=2, no_embed_class=True, init_values=0.5),
    "norms before and inside": lambda: vision_transformer(2, pre_norm=True, qk_norm=True, scale_attn_norm=True),
    "swin": swin,
    "swin of one stage": lambda: swin(depths=(3,), num_heads=(2,)),
}
TOTALS = {
    "deit_tiny_patch16_224": 5_308_416,
    "deit_small_patch16_224": 21_233_664,
    "deit_base_patch16_224": 84_934_656,
    "vit_small_patch16_224": 21_233_664,
    "vit_base_patch16_224": 84_934_656,
    "swin_tiny_patch4_window7_224": 25_878_528,
    "swin_small_patch4_window7_224": 47_112_192,
    "swin_base_patch4_window7_224": 83_755_008,
}
REST = {  # weights of patch embedding, head, reductions
    "deit_tiny_patch16_224": (147_456, 192_000, 0),
    "deit_small_patch16_224": (294_912, 384_000, 0),
    "deit_base_patch16_224": (589_824, 768_000, 0),
    "swin_tiny_patch4_window7_224": (4_608, 768_000, 1_548_288),
    "swin_small_patch4_window7_224": (4_608, 768_000, 1_548_288),
    "swin_base_patch4_window7_224": (6_144, 1_024_000, 2_752_512),
}


def adapted(network):
    side = SWIN_SIDE if isinstance(network, SwinTransformer) else VIT_SIDE
    return adapt("small", network, input_size=(3, side, side))


def logits_of_timm(network, pictures, fused):
    """timm's own logits in float64, attention by its fused kernel or by products; the switch is seen to be there."""
    switches = [module for module in network.modules() if hasattr(module, "fused_attn")]
    assert switches
    for module in switches:
        module.fused_attn = fused
    with torch.inference_mode():
        return network.double()(pictures.double())


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "products"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_logits_are_timms_own(kind, fused):
    adapter = adapted(NETWORKS[kind]())
    pictures = images(adapter, 3)
    expected = logits_of_timm(NETWORKS[kind](), pictures, fused)
    adapter.network.double()
    with torch.inference_mode():
        state = pictures.double()
        for index in range(adapter.segments):  # segment by segment: each starts from the output of the one before
            assert len(state) == 3
            state = adapter.run_segment(index, state)
    torch.testing.assert_close(state, expected, rtol=0, atol=1e-12)
    assert expected.std() > 0.1
    with torch.inference_mode():
        assert torch.equal(adapter.run(pictures.double()), state)
        assert torch.equal(adapter.run(adapter.run(pictures.double(), stop=2), start=2), state)
        torch.testing.assert_close(adapter.network(pictures.double()), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", NETWORKS)
def test_features_are_what_the_classifier_reads(kind):
    """Behind a block or from the image on; of two class tokens with a head each, their mean."""
    adapter = adapted(NETWORKS[kind]())
    pictures = images(adapter, 3)
    with torch.inference_mode():
        features, behind = adapter.features(pictures, 0), adapter.run(pictures, stop=2)
        assert torch.equal(adapter.features(behind, 2), features)
        if kind == "distilled":
            expected = adapter.network.norm(adapter.run(pictures, stop=3))[:, :2].mean(1)
            torch.testing.assert_close(features, expected)
        else:
            head = next(site.name for site in adapter.sites if site.type == "head")
            torch.testing.assert_close(adapter.module(head)(features), adapter.run(pictures))


def test_swin_of_these_tests_has_what_it_is_to_test():
    """Shifted windows, a map that the windows do not divide, an odd map before the patch merging."""
    blocks = [block for stage in swin().layers for block in stage.blocks]
    assert any(any(block.shift_size) and block.attn_mask is not None for block in blocks)
    assert blocks[0].input_resolution == (9, 9) and blocks[0].window_size == (4, 4)


def by_name(adapter):
    return {site.name: site for site in adapter.sites}


def test_sites_of_a_vit_by_hand():
    adapter = adapted(vision_transformer(2))
    names = ["patch_embed.proj"]
    types = ["patch_embed"]
    for block in range(2):
        parts = ["attn.qkv", "attn.qk", "attn.pv", "attn.proj", "mlp.fc1", "mlp.fc2"]
        names += [f"blocks.{block}.{part}" for part in parts]
        types += [part.partition(".")[2] for part in parts]
    assert [site.name for site in adapter.sites] == [*names, "head"]
    assert [site.type for site in adapter.sites] == [*types, "head"]
    assert [site.block for site in adapter.sites] == [None] + [0] * 6 + [1] * 6 + [None]
    assert adapter.blocks == 2 and adapter.segments == 4
    assert [adapter.segment_of(site) for site in adapter.sites] == [0] + [1] * 6 + [2] * 6 + [3]

    d, tokens, patches, heads = 24, 17, 16, 3
    sizes = {s.name: (s.parameters, s.macs, s.input_elements, s.second_input_elements) for s in adapter.sites}
    assert sizes["patch_embed.proj"] == (d * 3 * 16, patches * d * 3 * 16, 3 * 16 * 16, 0)
    for block in (0, 1):
        of = {part: sizes[f"blocks.{block}.{part}"] for part in ("attn.qkv", "attn.qk", "attn.pv", "attn.proj")}
        assert of["attn.qkv"] == (3 * d * d, tokens * 3 * d * d, tokens * d, 0)
        assert of["attn.qk"] == (0, tokens * tokens * d, tokens * d, tokens * d)
        assert of["attn.pv"] == (0, tokens * tokens * d, heads * tokens * tokens, tokens * d)
        assert of["attn.proj"] == (d * d, tokens * d * d, tokens * d, 0)
        assert sizes[f"blocks.{block}.mlp.fc1"] == (4 * d * d, tokens * 4 * d * d, tokens * d, 0)
        assert sizes[f"blocks.{block}.mlp.fc2"] == (4 * d * d, tokens * 4 * d * d, tokens * 4 * d, 0)
    assert sizes["head"] == (d * 10, d * 10, d, 0)


def test_sites_of_a_swin_by_hand():
    """Padding of the windows is computed on, so it costs: 9 x 9 tokens become 12 x 12 in attention."""
    adapter = adapted(swin())
    sites = by_name(adapter)
    order = [site.name for site in adapter.sites]
    assert order.index("layers.1.downsample.reduction") == order.index("layers.0.blocks.1.mlp.fc2") + 1
    reduction = sites["layers.1.downsample.reduction"]
    assert (reduction.type, reduction.block, adapter.segment_of(reduction)) == ("reduction", 2, 3)
    assert (reduction.parameters, reduction.macs) == (32 * 16, 25 * 32 * 16)
    assert order[-1] == "head.fc" and sites["head.fc"].type == "head" and adapter.blocks == 4
    assert [s.block for s in adapter.sites if s.type == "qkv"] == [0, 1, 2, 3]
    for stage, d, tokens, padded in ((0, 8, 81, 144), (1, 16, 25, 64)):
        for block in (0, 1):
            of = {
                part: sites[f"layers.{stage}.blocks.{block}.{part}"]
                for part in ("attn.qkv", "attn.qk", "attn.pv", "attn.proj", "mlp.fc1", "mlp.fc2")
            }
            windows = padded // 16
            assert (of["attn.qkv"].parameters, of["attn.qkv"].macs) == (3 * d * d, padded * 3 * d * d)
            assert of["attn.qk"].macs == of["attn.pv"].macs == windows * 16 * 16 * d
            assert (of["attn.proj"].parameters, of["attn.proj"].macs) == (d * d, padded * d * d)
            assert of["mlp.fc1"].macs == of["mlp.fc2"].macs == tokens * 4 * d * d
            assert of["mlp.fc2"].input_elements == tokens * 4 * d


def test_both_heads_of_a_distilled_deit_are_sites():
    adapter = adapted(distilled())
    heads = [site for site in adapter.sites if site.type == "head"]
    assert [site.name for site in heads] == ["head", "head_dist"]
    assert all(site.parameters == 24 * 10 and site.macs == 24 * 10 for site in heads)
    assert all(adapter.segment_of(site) == adapter.segments - 1 for site in heads)


def test_a_model_without_classes_has_no_head():
    adapter = adapted(vision_transformer(2, num_classes=0))
    assert not [site for site in adapter.sites if site.type == "head"]


@pytest.mark.parametrize("name", TOTALS)
def test_parameters_of_the_published_models(name):
    """The sums c of the budget, and what stays outside of it."""
    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False)
    adapter = adapt(name, network, input_size=(3, 224, 224))
    layers = [site for site in adapter.sites if site.allocated]
    assert len(layers) == 4 * adapter.blocks
    assert sum(site.parameters for site in layers) == TOTALS[name]
    if name in REST:
        kinds = ("patch_embed", "head", "reduction")
        assert tuple(sum(s.parameters for s in adapter.sites if s.type == kind) for kind in kinds) == REST[name]


def test_macs_of_deit_tiny():
    """1.25 G with the matmuls: 12 blocks of 12 d^2 tokens and 2 d tokens^2, patch embedding and head."""
    with torch.device("meta"):
        adapter = adapt("deit", timm.create_model("deit_tiny_patch16_224"), input_size=(3, 224, 224))
    d, tokens = 192, 197
    blocks = 12 * (12 * d * d * tokens + 2 * d * tokens * tokens)
    assert sum(site.macs for site in adapter.sites) == blocks + 196 * 768 * d + 1000 * d == 1_253_683_200


@pytest.mark.parametrize(
    "network",
    [
        lambda: VisionTransformer(**VIT, depth=2, block_fn=ParallelScalingBlock),
        lambda: VisionTransformer(**VIT, depth=2, attn_layer="diff"),
        lambda: timm.create_model("resnet10t"),
    ],
    ids=["no qkv", "another attention", "no transformer"],
)
def test_other_architectures_are_refused_in_one_line(network):
    with pytest.raises(LampQError) as caught:
        adapted(network())
    assert "\n" not in str(caught.value) and "model.name=small" in str(caught.value)
