"""A model that follows plans: what differs is changed, nothing else, and full precision is the original."""

import pytest
import torch

from lampq.bank.quantized_model import QuantizedModel
from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from tests.small_models import distilled_adapter, images, search_over, swin_adapter, vit_adapter

BUDGET = Budget(3, 3, (2, 3, 4), "fixed", (3, 3), "target")


@pytest.fixture(params=[vit_adapter, distilled_adapter, swin_adapter], ids=["vit", "distilled", "swin"])
def search(request, tmp_path):
    return search_over(request.param(), tmp_path)


def uniform(search, bits=3):
    return BUDGET.plan(search.adapter.sites, {site.name: bits for site in search.layers})


def modules_of(quantized):
    return {site.name: quantized.adapter.module(site.name) for site in quantized.adapter.sites}


def test_full_precision_gives_the_very_logits(search):
    quantized = QuantizedModel(search.adapter, search.bank)
    pictures = images(search.adapter, 3)
    expected = search.adapter.run(pictures)
    full_precision = BitPlan.full_precision(search.adapter.sites)
    assert torch.equal(quantized.adapter.run(pictures), expected)
    assert torch.equal(quantized.apply(full_precision).adapter.run(pictures), expected)
    assert not torch.equal(quantized.apply(uniform(search)).adapter.run(pictures), expected)
    assert torch.equal(search.adapter.run(pictures), expected), "the full-precision model was touched"
    assert torch.equal(quantized.apply(full_precision).adapter.run(pictures), expected)


def test_only_what_differs_is_changed(search):
    quantized = QuantizedModel(search.adapter, search.bank).apply(uniform(search))
    before = modules_of(quantized)
    name = search.layers[2].name
    replaced, replace_module = [], quantized.adapter.replace_module
    quantized.adapter.replace_module = lambda site, module: replaced.append(site) or replace_module(site, module)
    quantized.apply(uniform(search).with_bits({name: (4, 4)}))
    assert replaced == [name]
    after = modules_of(quantized)
    assert [site for site in before if before[site] is not after[site]] == [name]
    quantized.apply(uniform(search))
    assert modules_of(quantized) == before, "modules are built anew"


def test_the_way_to_a_plan_does_not_matter(search):
    pictures = images(search.adapter, 3)
    direct = QuantizedModel(search.adapter, search.bank).apply(uniform(search)).adapter.run(pictures)
    detour = QuantizedModel(search.adapter, search.bank)
    for bits in (2, 4, 8, 3):
        detour.apply(uniform(search, bits))
    assert torch.equal(detour.adapter.run(pictures), direct)


def test_every_site_of_a_plan_has_an_effect(search):
    """One site at 2 bits, all others in full precision: the logits move, whichever it is."""
    pictures = images(search.adapter, 3)
    expected = search.adapter.run(pictures)
    quantized = QuantizedModel(search.adapter, search.bank)
    full_precision = BitPlan.full_precision(search.adapter.sites)
    for site in search.adapter.sites:
        bits = (None, 2) if site.is_matmul else (2, None)
        logits = quantized.apply(full_precision.with_bits({site.name: bits})).adapter.run(pictures)
        assert (logits - expected).abs().max() > 1e-4, site.name
        if site.type != "patch_embed" and not site.is_matmul:
            logits = quantized.apply(full_precision.with_bits({site.name: (None, 2)})).adapter.run(pictures)
            assert (logits - expected).abs().max() > 1e-4, f"input of {site.name}"


def test_first_change(search):
    quantized = QuantizedModel(search.adapter, search.bank)
    plan = uniform(search)
    assert quantized.first_change(plan, plan) == search.adapter.segments
    for site in search.adapter.sites:
        changed = plan.with_bits({site.name: (None, 7), search.adapter.sites[-1].name: (7, 7)})
        assert quantized.first_change(plan, changed) == search.adapter.segment_of(site)


def test_a_plan_that_cannot_be_realised_leaves_the_one_before(search):
    quantized = QuantizedModel(search.adapter, search.bank).apply(uniform(search))
    pictures = images(search.adapter, 3)
    expected = quantized.adapter.run(pictures)
    first, *_, last = (site.name for site in search.layers)
    impossible = uniform(search).with_bits({first: (2, 2), last: (17, 17)})
    with pytest.raises(LampQError, match="17 bits"):
        quantized.apply(impossible)
    assert torch.equal(quantized.adapter.run(pictures), expected)
    assert torch.equal(quantized.apply(uniform(search)).adapter.run(pictures), expected)


def test_a_plan_of_another_model_is_refused(search):
    other = vit_adapter(blocks=5)
    with pytest.raises(LampQError, match="does not fit the model"):
        QuantizedModel(search.adapter, search.bank).apply(BitPlan.full_precision(other.sites))
