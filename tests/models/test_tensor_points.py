"""Tensors as sites: the same function, every tensor where it belongs, and nothing changed for who does not ask."""

from fractions import Fraction

import pytest
import torch
from timm.models.vision_transformer import ResPostBlock
from torch import nn

from lampq.errors import LampQError
from lampq.models.timm_adapters import adapt
from lampq.plan.budget import Budget, realised_costs
from lampq.plan.sites import BLOCK_TENSORS, TENSOR_TYPES
from tests.small_models import SWIN_SIDE, VIT_SIDE, distilled, images, swin, vision_transformer

NETWORKS = {
    "vit": vision_transformer,
    "distilled": distilled,
    "average pooling": lambda: vision_transformer(2, class_token=False, global_pool="avg"),
    "registers, LayerScale": lambda: vision_transformer(2, reg_tokens=2, no_embed_class=True, init_values=0.5),
    "norms before and inside": lambda: vision_transformer(2, pre_norm=True, qk_norm=True, scale_attn_norm=True),
    "no position embedding": lambda: vision_transformer(2, pos_embed="none"),
    "swin": swin,
    "swin of one stage": lambda: swin(depths=(3,), num_heads=(2,)),
}
RULES = Budget(Fraction(4), Fraction(8), (4,), "fixed", (4, 6), "target")


def adapted(kind):
    side = SWIN_SIDE if kind.startswith("swin") else VIT_SIDE
    return adapt("small", NETWORKS[kind](), input_size=(3, side, side))


@pytest.fixture(params=NETWORKS)
def pair(request):
    """A model without and with tensors among its sites."""
    adapter = adapted(request.param)
    return adapter, adapter.with_tensors()


def test_the_function_the_weights_and_the_original_stay_what_they_were(pair):
    adapter, twin = pair
    pictures = images(adapter, 3)
    before = [site.name for site in adapter.sites]
    assert torch.equal(adapter.run(pictures), twin.run(pictures))
    assert adapter.weights_hash() == twin.weights_hash() and adapter.parameters() == twin.parameters()
    assert not any(site.is_tensor for site in adapter.sites) and not adapter.tensors and twin.tensors
    assert before == [site.name for site in twin.sites if not site.is_tensor]
    assert not {id(m) for m in adapter.network.modules()} & {id(m) for m in twin.network.modules()}
    again = twin.clone()
    assert again.sites == twin.sites and torch.equal(again.run(pictures), twin.run(pictures))


def test_sites_are_in_the_order_of_execution_each_in_its_segment(pair):
    _, twin = pair
    seen = []
    for site in twin.sites:
        twin.module(site.name).register_forward_pre_hook(lambda *_, name=site.name: seen.append((segment, name)))
    state = images(twin, 1)
    for segment in range(twin.segments):
        state = twin.run_segment(segment, state)
    assert seen == [(twin.segment_of(site), site.name) for site in twin.sites]


def test_every_tensor_is_in_the_path(pair):
    _, twin = pair
    pictures = images(twin, 2)
    before = twin.run(pictures)

    class Moved(nn.Module):
        def forward(self, x):
            return 2 * x + torch.arange(x.shape[-1])

    for site in twin.sites:
        if site.is_tensor:
            twin.replace_module(site.name, Moved())
            assert not torch.allclose(twin.run(pictures), before), site.name
            twin.replace_module(site.name, nn.Identity())
    assert torch.equal(twin.run(pictures), before)


@pytest.mark.parametrize(
    ("kind", "missing"),
    [("vit", {"position_bias", "biased_scores", "reduction_output", "features"}),
     ("swin", {"tokens", "position_embedding"})],
)  # fmt: skip
def test_every_type_there_is(kind, missing):
    twin = adapted(kind).with_tensors()
    assert {site.type for site in twin.sites if site.is_tensor} == set(TENSOR_TYPES) - missing
    per_block = [site.type for site in twin.sites if site.block == 1 and site.is_tensor]
    assert sorted(per_block) == sorted(set(BLOCK_TENSORS) - missing - {"reduction_output"})
    sums = [site for site in twin.sites if site.type == "mlp_sum"]
    with torch.inference_mode():
        assert sums[0].input_elements == twin.run(images(twin, 1), stop=2).numel()


def test_a_plan_gives_them_the_bits_of_fixed_sites_and_they_cost_no_weights(pair):
    plans = [RULES.plan(a.sites, {s.name: 4 for s in a.sites if s.allocated}) for a in pair]
    assert all(s.bits == (None, 6) for s in plans[1].sites if s.type in TENSOR_TYPES)
    costs = [realised_costs(a.sites, plan) for a, plan in zip(pair, plans, strict=True)]
    assert costs[0] == costs[1]


def test_what_has_no_points_is_refused_in_one_line():
    adapter = adapt("odd", vision_transformer(1, block_fn=ResPostBlock), input_size=(3, VIT_SIDE, VIT_SIDE))
    with pytest.raises(LampQError, match=r"model\.name=odd: tensors beside a ResPostBlock"):
        adapter.with_tensors()
    adapter = adapt("free", vision_transformer(1, dynamic_img_size=True), input_size=(3, VIT_SIDE, VIT_SIDE))
    with pytest.raises(LampQError, match=r"model\.name=free: images of any size"):
        adapter.with_tensors()
