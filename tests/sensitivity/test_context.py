"""Changes in context: derivatives of the loss in the direction of a site's change, each site and bits stored once."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lampq.bank.quantized_model import QuantizedModel
from lampq.base_quantizers.psaq_vit import PSAQViT
from lampq.errors import LampQError
from lampq.plan.bits import Bits
from lampq.sensitivity.context import (
    Context,
    context_changes,
    equal_bits,
    layer_changes,
    output_changes,
    predicted,
)
from lampq.sensitivity.straight_through import straight_through
from tests.allocation.budgets import budget
from tests.small_models import images, search_over, swin_adapter, vit_adapter


@pytest.fixture(params=[vit_adapter, swin_adapter], ids=["vit", "swin"])
def search(request, tmp_path):
    return search_over(request.param(), tmp_path, sample_images=5)


@pytest.fixture
def vit(tmp_path):
    return search_over(vit_adapter(), tmp_path, sample_images=5)


def uniform(search, bits=3):
    return budget(bits).plan(search.adapter.sites, {s.name: bits for s in search.layers})


def directional(search, plan, name, bits):
    """One image at a time: the derivative by eps of the loss where ``eps (Y(b) - Y(now))`` is added to the output."""
    site, found = search.adapter.site(name), []
    now, other = search.bank.module(site, plan[name].bits), search.bank.module(site, bits)
    model = straight_through(search.adapter, search.scored_from, plan)
    eps = torch.zeros((), requires_grad=True)

    def add(_, operands, output):
        with torch.no_grad():
            direction = other(*operands) - now(*operands)
        return output + eps * direction

    model.module(name).register_forward_hook(add)
    for picture, label in zip(search.task.sample_images, search.task.sample_labels, strict=True):
        loss = F.cross_entropy(model.run(picture[None]), label[None])
        found.append(torch.autograd.grad(loss, eps)[0].item())
    return torch.tensor(found, dtype=torch.float64)


def test_it_is_the_derivative_in_the_direction_of_the_change_for_every_kind_of_site(search):
    plan = uniform(search)
    first = {site.type: site for site in search.adapter.sites}.values()
    options = {s.name: [Bits(None, 4)] if s.is_matmul else [Bits(2, 2), Bits(5, None)] for s in first}
    assert {"qkv", "fc2", "qk", "pv", "patch_embed", "head"} <= {s.type for s in first}
    for name, row in context_changes(search, plan, options).items():
        for bits, changes in row.items():
            expected = directional(search, plan, name, bits)
            assert expected.abs().min() > 0, name
            torch.testing.assert_close(changes, expected, rtol=2e-3, atol=1e-5, msg=f"{name} at {bits}")


def test_behind_the_last_rounding_it_is_the_difference_quotient_of_the_quantized_models_own_loss(vit):
    """The head's output is the logits: no straight-through estimate is between them and the loss."""
    plan, bits, head = uniform(vit), Bits(4, 4), vit.adapter.site("head")
    (changes,) = context_changes(vit, plan, {"head": [bits]})["head"].values()
    model = QuantizedModel(vit.adapter, vit.bank).apply(plan).adapter
    with torch.no_grad():
        state = model.run(vit.task.sample_images, 0, model.segments - 1)
        there = copy.copy(QuantizedModel(vit.adapter, vit.bank).apply(plan.with_bits({head.name: bits})).adapter)
        now, then = (each.run(state, each.segments - 1).double() for each in (model, there))
        step = 1e-4
        ahead, back = (
            F.cross_entropy(now + sign * step * (then - now), vit.task.sample_labels, reduction="none")
            for sign in (1, -1)
        )
    torch.testing.assert_close(changes, (ahead - back) / (2 * step), rtol=1e-3, atol=1e-5)


def test_chunks_do_not_matter(search):
    plan, pictures, labels = uniform(search), images(search.adapter, 7), torch.arange(7)
    model, sites = straight_through(search.adapter, search.scored_from, plan), [search.layers[0], search.layers[-2]]
    now = {s.name: search.bank.module(s, Bits(3, 3)) for s in sites}
    others = {s.name: [search.bank.module(s, Bits(b, b)) for b in (2, 4)] for s in sites}

    def changes(chunk):
        return output_changes(model, now, others, pictures, labels, losses=search.task.losses, chunk=chunk)

    whole = changes(100)
    for chunk in (1, 3):
        for name, found in changes(chunk).items():
            torch.testing.assert_close(found, whole[name], rtol=1e-3, atol=1e-5)
    before = straight_through(search.adapter, search.scored_from, plan)
    assert [len(m._forward_hooks) for m in model.network.modules()] == [
        len(m._forward_hooks) for m in before.network.modules()
    ], "the model is left as it was"


def test_at_its_own_bits_nothing_changes(vit):
    name = vit.layers[2].name
    changes = context_changes(vit, uniform(vit), {name: [Bits(3, 3), Bits(2, 2), Bits(2, 2)]})[name]
    assert not changes[Bits(3, 3)].any() and changes[Bits(2, 2)].all() and len(changes) == 2


def test_each_site_and_bits_is_stored_once(tmp_path):
    first, names = search_over(vit_adapter(), tmp_path, sample_images=5), ("blocks.0.attn.qkv", "blocks.2.mlp.fc2")
    few = context_changes(first, uniform(first), {names[0]: [Bits(2, 2)]})
    second = search_over(vit_adapter(), tmp_path, sample_images=5)
    more = context_changes(second, uniform(second), {name: [Bits(2, 2), Bits(4, 4)] for name in names})
    assert torch.equal(few[names[0]][Bits(2, 2)], more[names[0]][Bits(2, 2)])
    assert second.store.seconds_read["context"] > 0 and second.store.seconds_computed["context"] > 0
    third = search_over(vit_adapter(), tmp_path, sample_images=5)
    again = context_changes(third, uniform(third), {names[1]: [Bits(4, 4)]})
    assert torch.equal(again[names[1]][Bits(4, 4)], more[names[1]][Bits(4, 4)])
    assert not third.store.seconds_computed and third.task.dataset.reads["sample"] == 0
    elsewhere = context_changes(third, uniform(third, 4), {names[1]: [Bits(3, 3)]})
    assert third.store.seconds_computed and elsewhere[names[1]][Bits(3, 3)].any(), "another plan is another context"


def test_the_prediction_is_the_mean_and_half_the_mean_square():
    assert predicted(torch.tensor([1.0, -3.0])) == pytest.approx(-1 + 5 / 2)


def test_scores_are_relative_to_the_plan_which_is_equal_bits_where_none_is_given(vit):
    target = replace(budget(), pins=(("blocks.0.attn.qkv", 5),))
    scores = Context().scores(vit, target)
    assert scores == Context().scores(vit, target, equal_bits(vit, target))
    assert scores["blocks.0.attn.qkv"][5] == 0 != scores["blocks.0.attn.qkv"][3]
    assert all(row[3] == 0 for name, row in scores.items() if name != "blocks.0.attn.qkv")
    between = equal_bits(vit, budget("3.5"))
    assert set(between.layer_bits().values()) == {3}, "rounded down"


def test_a_part_of_d_is_its_first_images(vit):
    name, plan = vit.layers[1].name, uniform(vit)
    whole = layer_changes(vit, budget(), plan)[name]
    part = layer_changes(vit, budget(), plan, 2)[name]
    torch.testing.assert_close(part[2], whole[2][:2], rtol=1e-3, atol=1e-5)
    assert Context(context_images=2).scores(vit, budget(), plan)[name][2] == predicted(part[2])
    assert torch.equal(layer_changes(vit, budget(), plan, 99)[name][2], whole[2])


def test_costs_are_above_a_layers_least_and_fall_if_asked_for(vit):
    rows = {"a": {2: 0.5, 3: 0.0, 4: 0.25, 5: -0.25}}
    assert Context(monotone=False).costs(rows) == {"a": {2: 0.75, 3: 0.25, 4: 0.5, 5: 0.0}}
    assert Context().costs(rows) == {"a": {2: 0.75, 3: 0.25, 4: 0.25, 5: 0.0}}


def test_any_site_is_scored_relative_to_equal_bits(vit):
    options = {"blocks.1.attn.qk": [Bits(None, 2), Bits(None, 3)], "head": [Bits(4, 5)]}
    found = Context().site_scores(vit, budget(), options)
    changes = context_changes(vit, equal_bits(vit, budget()), options)
    expected = {name: {bits: predicted(d) for bits, d in row.items()} for name, row in changes.items()}
    assert found == expected and found["blocks.1.attn.qk"][Bits(None, 3)] == 0
    costs = Context().site_costs(found)
    assert costs["blocks.1.attn.qk"][Bits(None, 2)] >= 0 and costs["head"] == {Bits(4, 5): 0}


def test_operands_that_follow_a_layer_count_in_its_changes(vit):
    target = replace(budget(), operand_bits="follow_qkv")
    plan = target.plan(vit.adapter.sites, {s.name: 3 for s in vit.layers})
    block = {s.type: s.name for s in vit.adapter.sites if s.block == 1}
    found = layer_changes(vit, target, plan)
    alone = context_changes(
        vit, plan, {block["qkv"]: [Bits(2, 2)], block["qk"]: [Bits(None, 2)], block["pv"]: [Bits(None, 2)]}
    )
    torch.testing.assert_close(found[block["qkv"]][2], sum(next(iter(row.values())) for row in alone.values()))
    assert alone[block["qk"]][Bits(None, 2)].any()


def test_a_site_that_no_image_feeds_is_one_line(tmp_path):
    search = search_over(vit_adapter(2), tmp_path, base_quantizer=PSAQViT(), sample_images=3)
    name = next(s.name for s in search.adapter.sites if s.type == "position_embedding")
    plan = uniform(search, 4)
    with pytest.raises(LampQError, match=f"{name}: is the same for all images.*leave it out") as caught:
        context_changes(search, plan, {name: [Bits(None, 2)]})
    assert "\n" not in str(caught.value)


def test_bits_at_which_nothing_is_defined_are_one_line(vit):
    with pytest.raises(LampQError, match="is not defined at 99 bits"):
        context_changes(vit, uniform(vit), {vit.layers[0].name: [Bits(99, 3)]})
