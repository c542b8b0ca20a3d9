"""Budgets: the rules from weight bits to a whole plan, and what a plan costs, by hand."""

from dataclasses import replace
from fractions import Fraction
from math import isnan

import pytest

from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget, default_bit_set, packed_bytes, realised_costs
from tests.small_models import swin_adapter, vit_adapter


def budget(weight=3, activation=None, rule="fixed", fixed=None, operands="target", candidates=(2, 3, 4, 5)):
    weight, activation = Fraction(str(weight)), Fraction(str(weight if activation is None else activation))
    return Budget(weight, activation, candidates, rule, fixed or (int(weight), int(activation)), operands)


@pytest.fixture(scope="module")
def adapter():
    return vit_adapter(2)


def by_type(adapter, **bits):
    return {site.name: bits[site.type] for site in adapter.sites if site.allocated}


BITS = {"qkv": 4, "proj": 2, "fc1": 3, "fc2": 5}


def bits_of(plan):
    """Bits by type, where all sites of a type agree."""
    found = {}
    for site in plan.sites:
        assert found.setdefault(site.type, site.bits) == site.bits
    return found


def test_equal_targets_give_each_input_its_layers_bits(adapter):
    plan = budget(3.5).plan(adapter.sites, by_type(adapter, **BITS))
    assert bits_of(plan) == {
        "patch_embed": (3, None),
        "qkv": (4, 4),
        "qk": (None, 3),
        "pv": (None, 3),
        "proj": (2, 2),
        "fc1": (3, 3),
        "fc2": (5, 5),
        "head": (3, 3),
    }
    assert plan.budget == budget(3.5).to_json()


def test_operands_may_follow_qkv_block_by_block(adapter):
    layer_bits = by_type(adapter, **BITS) | {"blocks.1.attn.qkv": 2}
    plan = budget(3, operands="follow_qkv").plan(adapter.sites, layer_bits)
    assert [plan[f"blocks.0.attn.{part}"].bits for part in ("qk", "pv")] == [(None, 4)] * 2
    assert [plan[f"blocks.1.attn.{part}"].bits for part in ("qk", "pv")] == [(None, 2)] * 2
    assert budget(3).plan(adapter.sites, layer_bits)["blocks.1.attn.qk"].bits == (None, 3)


def test_fixed_sites_have_bits_of_their_own(adapter):
    plan = budget(3, fixed=(8, 6)).plan(adapter.sites, by_type(adapter, **BITS))
    found = bits_of(plan)
    assert found["patch_embed"] == (8, None) and found["head"] == (8, 6)
    assert found["qk"] == found["pv"] == (None, 6) and found["fc1"] == (3, 3)
    swin = swin_adapter()
    assert bits_of(budget(3, fixed=(8, 6)).plan(swin.sites, by_type(swin, **BITS)))["reduction"] == (8, 6)


def test_w4a8_fixed_and_follow(adapter):
    fixed = bits_of(budget(4, 8).plan(adapter.sites, by_type(adapter, **BITS)))
    assert {fixed[type][1] for type in BITS} == {8} and fixed["head"] == (4, 8) and fixed["qk"] == (None, 8)
    assert {type: fixed[type][0] for type in BITS} == BITS
    follow = bits_of(budget(4, 8, "follow", operands="follow_qkv").plan(adapter.sites, by_type(adapter, **BITS)))
    assert {type: follow[type] for type in BITS} == {type: (bits, bits + 4) for type, bits in BITS.items()}
    assert follow["qk"] == (None, 8)
    assert budget(8, 4, "follow").input_bits(3) == 1 and budget(4, 12, "follow").input_bits(10) == 16
    assert budget(3.5, 5.5, "follow").input_bits(3) == 5


def test_the_total_is_exact_and_rounded_down():
    assert budget(3).total([10, 7]) == 51
    assert budget(3.5).total([3]) == 10
    assert budget("3.1").total([10]) == 31  # in floating point 3.1 * 10 is 31.000000000000004
    assert budget("2.3").total([10**15]) == 23 * 10**14


def test_a_plan_above_the_budget_is_refused(adapter):
    exact = budget(3).plan(adapter.sites, by_type(adapter, qkv=3, proj=3, fc1=4, fc2=2))
    budget(3).check_feasible(adapter.sites, exact)
    above = exact.with_bits({"blocks.0.attn.proj": (4, 4)})
    with pytest.raises(LampQError, match=r"3\.0417 bits on average, over weight_bits=3"):
        budget(3).check_feasible(adapter.sites, above)


def test_what_fingerprints_see_of_a_plain_budget_is_what_it_was():
    """Published runs are named by it: no key may be added where nothing beyond the paper is asked for."""
    assert budget("3.5", 8).to_json() == {
        "weight_bits": 3.5,
        "activation_bits": 8.0,
        "candidates": [2, 3, 4, 5],
        "activation_rule": "fixed",
        "fixed_site_bits": [3, 8],
        "operand_bits": "target",
    }


BEYOND = {
    "unit": "bops",
    "limit": 10**9,
    "ties": (("fc1", "fc2"),),
    "pins": (("fc2", 4), ("block 0", 8)),
    "input_candidates": (3, 4),
    "allocate": "all",
}


@pytest.mark.parametrize("key", BEYOND)
def test_what_goes_beyond_the_paper_is_in_fingerprints(key):
    plain, asked = budget(3).to_json(), replace(budget(3), **{key: BEYOND[key]})
    assert asked.to_json().keys() - plain.keys() == {key} and plain.items() <= asked.to_json().items()
    assert asked.unbound() == budget(3)
    assert replace(budget(3), ties="modules").to_json()["ties"] == "modules"
    order = replace(budget(3), pins=BEYOND["pins"][::-1])
    assert order.to_json() == replace(budget(3), pins=BEYOND["pins"]).to_json()


def test_inputs_of_their_own(adapter):
    asked = replace(budget(3, operands="follow_qkv"), activation_rule="independent")
    layer_bits, input_bits = by_type(adapter, **BITS), by_type(adapter, qkv=6, proj=5, fc1=4, fc2=2)
    found = bits_of(asked.plan(adapter.sites, layer_bits, input_bits=input_bits))
    assert found["qkv"] == (4, 6) and found["proj"] == (2, 5) and found["fc1"] == (3, 4) and found["fc2"] == (5, 2)
    assert found["qk"] == found["pv"] == (None, 6) and found["head"] == (3, 3)
    # Where nobody chooses them, inputs are at the target, as with fixed ones; also where the targets are equal.
    assert asked.input_bits(5) == 3 and asked.unbound().activation_rule == "fixed"
    assert replace(asked, activation_bits=Fraction(9, 2)).input_bits(5) == 4


def test_spent_by_hand(adapter):
    plan = budget(3).plan(adapter.sites, by_type(adapter, **BITS))
    assert budget(3).spent(adapter.sites, plan, None) == 2 * 576 * (3 * 4 + 2 + 4 * 3 + 4 * 5)
    bops = replace(budget(3), unit="bops").spent(adapter.sites, plan, None)
    assert bops == realised_costs(adapter.sites, plan)["bops"] and isinstance(bops, int)
    assert replace(budget(3), unit="packed_bytes").spent(adapter.sites, plan, lambda p: 7 * (p is plan)) == 7


def test_default_bit_sets():
    for target, expected in [
        ("1", (1, 2, 3)),
        ("2", (1, 2, 3, 4)),
        ("2.5", (2, 3, 4, 5)),
        ("3", (2, 3, 4, 5)),
        ("3.5", (2, 3, 4, 5, 6)),
        ("4", (2, 3, 4, 5, 6)),
        ("8", (6, 7, 8, 9, 10)),
    ]:
        assert default_bit_set(Fraction(target)) == expected, (target, expected)


def test_costs_by_hand(adapter):
    """d = 24, 17 tokens (16 patches and the class token), 3 heads, 10 classes, two blocks."""
    plan = budget(3, fixed=(8, 6)).plan(adapter.sites, by_type(adapter, **BITS))
    costs = realised_costs(adapter.sites, plan)
    d2, tokens = 24 * 24, 17
    layers = 2 * d2 * (3 * 4 + 1 * 2 + 4 * 3 + 4 * 5)
    assert costs["average_weight_bits"] == pytest.approx(layers / (2 * 12 * d2), rel=1e-15)
    patch, head = 48 * 24, 240
    assert costs["average_weight_bits_all"] == pytest.approx(
        (layers + 8 * patch + 8 * head) / (24 * d2 + patch + head), rel=1e-15
    )
    inputs = 2 * tokens * 24  # of qkv, proj and fc1 each; fc2 sees four times as many
    assert costs["average_activation_bits"] == pytest.approx(
        (inputs * (4 + 2 + 3 + 4 * 5) + 24 * 6) / (inputs * 7 + 24), rel=1e-15
    )
    assert costs["average_operand_bits"] == 6
    blocks = 2 * tokens * d2 * (3 * 4 * 4 + 1 * 2 * 2 + 4 * 3 * 3 + 4 * 5 * 5)
    matmuls = 2 * 2 * tokens * tokens * 24 * 6 * 6
    assert costs["bops"] == 16 * patch * 8 * 32 + blocks + matmuls + head * 8 * 6


def test_operand_average_is_weighted_by_elements(adapter):
    layer_bits = by_type(adapter, **BITS) | {"blocks.1.attn.qkv": 2}
    plan = budget(3, operands="follow_qkv").plan(adapter.sites, layer_bits)
    assert realised_costs(adapter.sites, plan)["average_operand_bits"] == 3
    plan = plan.with_bits({"blocks.0.attn.pv": (None, 8)})
    q, p = 17 * 24, 3 * 17 * 17  # elements of q, k or v, and of the probabilities
    expected = (4 * 2 * q + 8 * (p + q) + 2 * (3 * q + p)) / (2 * (3 * q + p))
    assert realised_costs(adapter.sites, plan)["average_operand_bits"] == pytest.approx(expected, rel=1e-15)


def test_full_precision_counts_32_bits(adapter):
    plan = BitPlan.full_precision(adapter.sites)
    costs = realised_costs(adapter.sites, plan)
    assert {value for key, value in costs.items() if key.startswith("average")} == {32}
    assert costs["bops"] == 1024 * sum(site.macs for site in adapter.sites)
    assert packed_bytes(adapter.sites, plan, adapter.parameters(), 0) == 4 * adapter.parameters()


def test_packed_bytes_by_hand(adapter):
    plan = budget(3, fixed=(8, 6)).plan(adapter.sites, by_type(adapter, **BITS))
    d2 = 24 * 24
    weights = 2 * d2 * (3 * 4 + 1 * 2 + 4 * 3 + 4 * 5) // 8 + 48 * 24 + 240
    biases = 2 * (3 * 24 + 24 + 4 * 24 + 24) + 24 + 10
    norms = (2 * 2 + 1) * 2 * 24
    embeddings = 24 + 17 * 24
    assert adapter.parameters() == 24 * d2 + 48 * 24 + 240 + biases + norms + embeddings
    expected = weights + 4 * (biases + norms + embeddings + 77)
    assert packed_bytes(adapter.sites, plan, adapter.parameters(), 77) == expected


def test_packed_weights_are_rounded_up_to_bytes_per_layer():
    odd = vit_adapter(1, num_classes=7, embed_dim=27, num_heads=3)
    plan = budget(3).plan(odd.sites, by_type(odd, qkv=3, proj=3, fc1=3, fc2=3))
    bytes_of = {s.name: -(-s.parameters * 3 // 8) for s in odd.sites if s.parameters}
    assert any(s.parameters * 3 % 8 for s in odd.sites)
    rest = odd.parameters() - sum(s.parameters for s in odd.sites)
    assert packed_bytes(odd.sites, plan, odd.parameters(), 0) == sum(bytes_of.values()) + 4 * rest


def test_costs_of_nothing_are_not_a_number():
    weights_only = tuple(site for site in vit_adapter(1).sites if not site.is_matmul)
    assert isnan(realised_costs(weights_only, BitPlan.full_precision(weights_only))["average_operand_bits"])
