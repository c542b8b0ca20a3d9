"""APQ-like: where it is PTQ4ViT, where its blocks decide, and every option of its own."""

import pytest
import torch

from lampq.base_quantizers.apq_like import APQLike
from lampq.base_quantizers.ptq4vit import PTQ4ViT
from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from tests.base_quantizers.example_sites import example, site
from tests.small_models import search_over, swin_adapter, vit_adapter

BITS = 3
FEW = {"candidates": 12, "rounds": 1}


def searched(tmp_path, model=lambda: vit_adapter(1), **options):
    return search_over(model(), tmp_path, base_quantizer=APQLike(**{**FEW, **options}), calibration_images=6)


def whole_plan(search):
    rules = Budget(BITS, BITS, (BITS,), "fixed", (BITS, BITS), "target")
    return rules.plan(search.adapter.sites, {s.name: BITS for s in search.layers})


def test_the_largest_probability_has_the_last_code_and_order_is_kept():
    layer, (p, v) = example("pv")
    method = APQLike(**FEW, probabilities="largest")
    state = method.calibrate(site("pv"), layer, (p, v), Bits(None, BITS))
    quantize = method.quantized_module(site("pv"), layer, state, Bits(None, BITS)).quantize_a
    assert set(state) == {"a_scale", "a_zero_point", "b_scale"}
    assert quantize.codes(p).view(-1)[p.argmax()] == 2**BITS - 1
    ascending = quantize(p.flatten().sort().values)
    assert (ascending[1:] >= ascending[:-1]).all()
    torch.testing.assert_close(quantize(p).max(), p.max())


def test_a_searched_scale_of_probabilities_clips_where_that_is_better():
    """Probabilities as attention has them: nearly all below half a step of the scale that clips nothing."""
    layer, (p, v) = example("pv")
    p = torch.cat([p / 50, 1 - p.sum(-1, keepdim=True) / 50], dim=-1)
    v = torch.cat([v, torch.zeros_like(v[..., :1, :])], dim=-2)
    errors = {}
    for kind in ("searched", "largest"):
        method = APQLike(candidates=100, rounds=1, probabilities=kind)
        state = method.calibrate(site("pv"), layer, (p, v), Bits(None, BITS))
        module = method.quantized_module(site("pv"), layer, state, Bits(None, BITS))
        errors[kind] = (module(p, v) - p @ v).square().sum().item()
        assert state["a_scale"].shape == (1,) and torch.equal(module.quantize_a.scale, state["a_scale"])
    assert errors["searched"] < errors["largest"] / 2


@pytest.mark.parametrize("kind", ["qkv", "proj", "fc2", "qk", "patch_embed", "head"])
def test_all_other_independent_states_are_ptq4vits(kind):
    layer, inputs = example(kind)
    arguments = (site(kind), layer, inputs, Bits(BITS, BITS), torch.randn_like(layer(*inputs)))
    mine, theirs = APQLike(**FEW).calibrate(*arguments), PTQ4ViT(**FEW).calibrate(*arguments)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_block_of_one_layer_and_all_terms_is_ptq4vits_search(tmp_path):
    """The tail holds the head alone: with everything before it in full precision its output is the head's."""
    search = searched(tmp_path, rho=1, block_rounds=3, rounds=3)
    (head,) = (s for s in search.adapter.sites if s.type == "head")
    plan = BitPlan.full_precision(search.adapter.sites).with_bits({head.name: (BITS, BITS)})
    realised = search.realisation.states(plan)[head.name]
    independent = search.bank.entry(head, Bits(BITS, BITS))
    assert realised.keys() == independent.keys()
    assert all(torch.equal(realised[name], independent[name]) for name in realised)


def block_error(search, plan, method):
    """What the search minimizes, at the first block's output, for the realised plan."""
    quantized, full_precision = search.adapter.clone(), search.adapter
    for name, module in search.realisation.modules(plan).items():
        quantized.replace_module(name, module)
    pictures = search.task.calibration_images
    expected = full_precision.run(pictures, stop=2)
    gradient = 1 if search.bank.gradients is None else search.bank.gradients.at_segment(1)
    terms = ((quantized.run(pictures, stop=2) - expected) * gradient).square().flatten(1)
    count = -int(-method.rho * terms.shape[1] // 1)
    return terms.topk(count, dim=1).values.sum().item()


@pytest.mark.parametrize("rho", [0.5, 1.0])
def test_a_block_ends_with_less_error_than_layers_searched_by_themselves(rho, tmp_path):
    search = searched(tmp_path, rho=rho)
    method, plan = search.bank.base_quantizer, whole_plan(search)
    realised = block_error(search, plan, method)
    modules = {s.name: search.bank.module(search.adapter.site(s.name), s.bits) for s in plan.sites}
    search.realisation.modules = lambda _: modules
    assert realised < block_error(search, plan, method)


@pytest.mark.parametrize(
    ("option", "value", "others"),
    [
        # Only the class token of the last block reaches the loss: all elements count where the metric says so.
        ("rho", 0.02, {"metric": "mse"}),
        ("block_rounds", 3, {}),
        ("probabilities", "largest", {}),
        ("metric", "mse", {}),
        ("labels", "most_likely", {}),
    ],
)
def test_every_option_changes_what_is_found(option, value, others, tmp_path):
    states = []
    for options in (others, {**others, option: value}):
        search = searched(tmp_path, **options)
        found = search.realisation.states(whole_plan(search))
        states.append(torch.cat([t.flatten() for name in sorted(found) for t in found[name].values()]))
    assert not torch.equal(*states)


def test_a_plan_is_scored_by_the_states_that_search_names(tmp_path):
    scores = {}
    for kind in ("surrogate", "exact"):
        search = searched(tmp_path, search=kind)
        scores[kind] = search.evaluator.score(whole_plan(search)).loss
    assert not torch.equal(scores["surrogate"], scores["exact"])


def test_a_swin_is_realised(tmp_path):
    search = searched(tmp_path, swin_adapter, candidates=4)
    plan = whole_plan(search)
    states = search.realisation.states(plan)
    assert set(states) == {s.name for s in plan.sites}
    assert all(value.isfinite().all() for state in states.values() for value in state.values())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"rho": 0}, r"base_quantizer\.rho=0: must be a fraction of the error's terms"),
        ({"block_rounds": 0}, r"base_quantizer\.block_rounds=0"),
        ({"probabilities": "all"}, r"base_quantizer\.probabilities=all"),
        ({"search": "both"}, r"base_quantizer\.search=both"),
    ],
)
def test_a_value_out_of_range_is_named(options, line):
    with pytest.raises(LampQError, match=line):
        APQLike(**options)
