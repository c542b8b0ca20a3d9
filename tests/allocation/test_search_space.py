"""The search space: what each bit-width spends, in each unit, against the whole plan's cost; the limits; refusals."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import hydra
import numpy as np
import pytest
import yaml

from lampq.allocation.search_space import SearchSpace
from lampq.allocation.solvers.ilp import solve_ilp
from lampq.configuration.settings import construct, resolved
from lampq.errors import LampQError
from lampq.launch.command_line import config_folder
from lampq.plan.budget import UNITS, packed_bytes, realised_costs
from tests.allocation.budgets import budget
from tests.small_models import search_over, swin_adapter, vit_adapter

METHODS = {
    yaml.safe_load(path.read_text())["_target_"]: path.stem
    for path in sorted((config_folder() / "base_quantizer").glob("*.yaml"), reverse=True)
}.values()
"""One option a base quantizer, of several the first."""
MODELS = {"vit": lambda: vit_adapter(1), "odd vit": lambda: vit_adapter(1, embed_dim=27), "swin": swin_adapter}


def realised(search, asked, layer_bits):
    """What a plan costs by the figures that a run reports."""
    adapter, plan = search.adapter, asked.plan(search.adapter.sites, layer_bits)
    if asked.unit == "packed_bytes":
        search.bank.calibrate(plan)
        return packed_bytes(adapter.sites, plan, adapter.parameters(), search.bank.quantizer_parameters(plan))
    if asked.unit == "bops":
        return realised_costs(adapter.sites, plan)["bops"]
    return sum(s.parameters * layer_bits[s.name] for s in search.layers)


def equal(search, bits):
    return {s.name: bits for s in search.layers}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("changes", [{}, {"operand_bits": "follow_qkv", "ties": "modules", "pins": (("fc2", 7),)}])
def test_spending_is_what_the_whole_plan_costs_more(unit, model, changes, tmp_path):
    search = search_over(MODELS[model](), tmp_path)
    changes = {**changes, "ties": "none"} if model != "swin" and changes else changes
    asked = replace(budget("4.5", (2, 3, 5)), unit=unit, **changes, limit=None)
    if changes.get("ties") == "modules":
        asked = replace(asked, pins=(("block 0", 7),))
    space = SearchSpace.open(search, asked)
    smallest = {g.name: g.bits[0] for g in space.groups}
    floor = realised(search, asked, space.layer_bits(list(smallest.values())))
    generator = np.random.default_rng(0)
    for _ in range(6):
        bits = {g.name: int(generator.choice(g.bits)) for g in space.groups}
        layer_bits = space.layer_bits(list(bits.values()))
        assert realised(search, asked, layer_bits) == floor + space.spent(bits)
        assert space.group_bits(layer_bits) == bits
    low, high = (realised(search, asked, equal(search, b)) for b in (4, 5))
    assert space.room == math.floor(Fraction(low + high, 2)) - floor
    assert space.spending.shape == (len(space.groups), len(space.bits))


@pytest.mark.parametrize("unit", UNITS)
def test_the_limit_is_what_equal_bits_cost_or_the_users(unit, tmp_path):
    search = search_over(vit_adapter(1), tmp_path)
    asked = replace(budget(3), unit=unit)
    space = SearchSpace.open(search, asked)
    cost = realised(search, asked, equal(search, 3))
    assert space.room == cost - realised(search, asked, equal(search, 2))
    bits = dict.fromkeys((g.name for g in space.groups), 3)
    assert space.spent(bits) == space.room
    if unit != "average_bits":
        own = SearchSpace.open(search, replace(asked, limit=cost - 100))
        assert own.room == space.room - 100


@pytest.mark.parametrize("unit", UNITS)
def test_the_least_score_is_the_least_of_all_plans_that_keep_limit_ties_and_pins(unit, tmp_path):
    search = search_over(vit_adapter(2), tmp_path)
    asked = replace(budget(3, (2, 3, 4)), unit=unit, ties=(("blocks.0.attn.*",),), pins=(("blocks.1.mlp.*", 6),))
    asked = replace(asked, weight_bits=Fraction(4), activation_bits=Fraction(4))
    generator = np.random.default_rng(1)
    scores = {s.name: dict(zip((2, 3, 4), sorted(generator.random(3))[::-1], strict=True)) for s in search.layers}
    space = SearchSpace.open(search, asked)
    allocation = space.solved(scores, solve_ilp)
    layer_bits = space.layer_bits(allocation.bits)
    limit = realised(search, asked, equal(search, 4))

    def total(bits):
        return math.fsum(scores[name][b] for name, b in bits.items() if not name.startswith("blocks.1.mlp"))

    free = [s.name for s in search.layers if not s.name.startswith("blocks.1.mlp")]
    best = math.inf
    for choice in itertools.product((2, 3, 4), repeat=len(free)):
        bits = {s.name: 6 for s in search.layers} | dict(zip(free, choice, strict=True))
        if bits["blocks.0.attn.qkv"] == bits["blocks.0.attn.proj"] and realised(search, asked, bits) <= limit:
            best = min(best, total(bits))
    assert total(layer_bits) == pytest.approx(best, rel=1e-9) == pytest.approx(allocation.objective, rel=1e-9)
    assert realised(search, asked, layer_bits) <= limit
    assert {layer_bits[f"blocks.1.mlp.{fc}"] for fc in ("fc1", "fc2")} == {6}


def test_costs_of_groups_are_sums_and_pinned_ones_cost_nothing(tmp_path):
    search = search_over(vit_adapter(1), tmp_path)
    asked = replace(budget(3, (2, 4)), ties="modules", pins=(("blocks.0.mlp.*", 3),))
    space = SearchSpace.open(search, asked)
    scores = {s.name: {2: 10.0 * i, 4: 1.0 * i} for i, s in enumerate(search.layers, 1)}
    assert space.bits == (2, 3, 4)
    assert space.costs(scores).tolist() == [[30.0, math.inf, 3.0], [math.inf, 0.0, math.inf]]
    assert [g.pinned for g in space.groups] == [False, True]
    assert space.equal_bits(2, asked) == {
        "blocks.0.attn.qkv": 2,
        "blocks.0.attn.proj": 2,
        "blocks.0.mlp.fc1": 3,
        "blocks.0.mlp.fc2": 3,
    }
    with pytest.raises(
        LampQError, match="weight_bits=4: equal bits together with pins and budget_limit spend 2304 weight"
    ):
        space.equal_bits(4, asked)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"pins": (("block 0", 8),)},
            r"bits: the budget of 3 bits .* average, 4 with pins=\{block 0:8\}; .*, pin fewer",
        ),
        ({"unit": "bops", "pins": (("block 0", 8),)}, r"bits: the limit of \d+ bit operations is below the \d+ of the"),
        (
            {"unit": "bops", "limit": 1000},
            r"budget_limit: the limit of 1000 bit operations is below the \d+ of the smal",
        ),
        (
            {"unit": "packed_bytes", "limit": 1000},
            r"budget_limit: the limit of 1000 bytes is below .* or raise budget_l",
        ),
        (
            {"unit": "packed_bytes", "pins": (("block 0", 8),)},
            r"bits: the limit of \d+ bytes is below .* pin fewer laye",
        ),
        ({"ties": "blocks", "pins": (("fc2", 3),)}, "pins: .* pinned to 3 bits, but shares its bits with"),
        ({"pins": (("fc3", 3),)}, "pins: fc3 names none"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_any_work(changes, line, tmp_path):
    search, asked = search_over(vit_adapter(3), tmp_path), replace(budget(3), **changes)
    for attempt in (lambda: SearchSpace.check(search.adapter, asked), lambda: SearchSpace.open(search, asked)):
        with pytest.raises(LampQError, match=line) as caught:
            attempt()
            assert search.task.dataset.reads["calibration"] == 0
        assert "\n" not in str(caught.value)


def test_an_allocators_own_ties_are_checked_too():
    asked = replace(budget(3), pins=(("qkv", 3),))
    SearchSpace.check(vit_adapter(2), asked)
    with pytest.raises(LampQError, match=r"blocks\.0\.attn\.qkv is pinned to 3 bits, but shares"):
        SearchSpace.check(vit_adapter(2), asked, "modules")


def test_inputs_are_limited_over_their_elements(tmp_path):
    search = search_over(swin_adapter(), tmp_path)
    asked = replace(budget("3.5"), activation_rule="independent", activation_bits=Fraction(9, 2), ties="blocks")
    space = SearchSpace.of_inputs(search.layers, replace(asked, input_candidates=(3, 4, 6)))
    elements = [s.input_elements for s in search.layers]
    assert space.bits == (3, 4, 6) and space.room == math.floor(Fraction(9, 2) * sum(elements)) - 3 * sum(elements)
    assert [g.name for g in space.groups] == [f"block {b}" for b in range(4)]
    assert space.groups[0].spending == {b: (b - 3) * sum(elements[:4]) for b in (3, 4, 6)}
    with pytest.raises(LampQError, match=r"activation_bits: the limit of .* input bits is below"):
        SearchSpace.of_inputs(search.layers, replace(asked, input_candidates=(5, 6)))


@pytest.mark.parametrize("name", METHODS)
def test_how_many_numbers_a_site_stores_does_not_depend_on_its_bits(name, tmp_path):
    """What budgets of bytes rely on: they ask for it at one bit-width."""
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = hydra.compose("config", overrides=[f"base_quantizer={name}", "effort=smoke"])
    method = construct("base_quantizer", resolved(cfg)["base_quantizer"])
    search = search_over(vit_adapter(1), tmp_path, base_quantizer=method, calibration_images=2)
    lowest = max(2, method.minimum_bits)
    counts = set()
    for bits in (method.minimum_bits, lowest + 3):
        plan = budget(bits, (bits,)).plan(search.adapter.sites, equal(search, bits))
        search.bank.calibrate(plan)
        counts.add(search.bank.quantizer_parameters(plan))
    assert len(counts) == 1


def equal_plan(search, asked, bits):
    return asked.unbound().plan(search.adapter.sites, equal(search, bits))


@pytest.mark.parametrize("allocate", ["layers_and_operands", "all"])
@pytest.mark.parametrize("rule", ["fixed", "independent"])
def test_under_bit_operations_one_limit_is_on_everything_that_is_chosen(allocate, rule, tmp_path):
    search = search_over(swin_adapter(), tmp_path)
    asked = replace(budget(4, (2, 3, 5)), unit="bops", activation_rule=rule, allocate=allocate, pins=(("qk", 6),))
    (space,) = SearchSpace.each(search, asked)
    sites = search.adapter.sites
    outside = {"patch_embed", "reduction", "head"} if allocate == "all" else set()
    assert {s.type for g in space.groups for s in g.layers} == {"qkv", "qk", "pv", "proj", "fc1", "fc2"} | outside
    assert [g.name for g in space.groups] == [s.name for s in asked.chosen(sites)], "in the order of execution"
    generator = np.random.default_rng(0)
    numbers = {g.name: g.bits[0] for g in space.groups}
    floor = realised_costs(sites, asked.plan_of(sites, space.pairs(list(numbers.values()))))["bops"]
    for _ in range(4):
        numbers = {g.name: int(generator.choice(g.bits)) for g in space.groups}
        plan = asked.plan_of(sites, space.pairs(list(numbers.values())))
        assert realised_costs(sites, plan)["bops"] == floor + space.spent(numbers)
        assert {plan[s.name].activation_bits for s in sites if s.type == "qk"} == {6}
    assert realised_costs(sites, equal_plan(search, asked, 4))["bops"] == floor + space.room
    pairs = set(space.options["layers.0.blocks.0.mlp.fc1"])
    assert pairs == set(
        itertools.product((2, 3, 5), repeat=2) if rule == "independent" else {(b, b) for b in (2, 3, 5)}
    )
    assert set(space.options["layers.0.blocks.0.attn.pv"]) == {(None, b) for b in (2, 3, 5)}


@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(3, 3), (3, "3.5"), ("3.5", 3), ("3.5", "3.5"), (3, 4)])
def test_under_bit_operations_both_targets_of_pairs_may_lie_between_integers(weight_bits, activation_bits, tmp_path):
    search = search_over(vit_adapter(1), tmp_path)
    weights, inputs = Fraction(weight_bits), Fraction(activation_bits)
    rules = {"unit": "bops", "activation_rule": "independent"}
    asked = replace(budget(3), weight_bits=weights, activation_bits=inputs, **rules)
    (space,) = SearchSpace.each(search, asked)
    sites, low = search.adapter.sites, {g.name: g.bits[0] for g in space.groups}
    floor = realised_costs(sites, asked.plan_of(sites, space.pairs(list(low.values()))))["bops"]
    macs = sum(s.macs for s in search.layers)
    rest = floor - sum(s.macs * 2 * 2 for s in search.layers)
    assert floor + space.room == pytest.approx(rest + macs * float(weights * inputs), abs=2)


@pytest.mark.parametrize("unit", ["average_bits", "packed_bytes"])
@pytest.mark.parametrize("rule", ["fixed", "independent"])
def test_under_bits_and_bytes_operands_have_an_average_of_their_own(unit, rule, tmp_path):
    search = search_over(vit_adapter(2), tmp_path)
    asked = replace(budget(3), unit=unit, activation_rule=rule, allocate="all")
    *others, operands = SearchSpace.each(search, asked)
    assert [space.unit for space in others] == [UNITS[unit], *(["input bits"] if rule == "independent" else [])]
    sites = search.adapter.sites
    elements = {s.name: s.input_elements + s.second_input_elements for s in sites if s.is_matmul}
    assert {g.name for g in operands.groups} == set(elements) and operands.room == sum(elements.values())
    assert operands.groups[1].spending == {b: (b - 2) * elements[operands.groups[1].name] for b in (2, 3, 4, 5)}
    weights = [s for s in sites if s.parameters]
    assert [g.name for g in others[0].groups] == [s.name for s in weights]
    if unit == "average_bits":
        assert others[0].room == sum(s.parameters for s in weights)
    else:
        cost = [realised(search, replace(asked, fixed_site_bits=(b, b)), equal(search, b)) for b in (3, 2)]
        assert others[0].room == cost[0] - cost[1]
    if rule == "independent":
        inputs = others[1]
        assert [g.name for g in inputs.groups] == [s.name for s in weights[1:]], "the image has no bits to choose"
        assert inputs.room == sum(s.input_elements for s in weights[1:])


@pytest.mark.parametrize("unit", UNITS)
def test_ties_by_words_bind_layers_whatever_is_chosen(unit, tmp_path):
    search = search_over(vit_adapter(2), tmp_path)
    asked = replace(budget(3), unit=unit, allocate="all", ties=(("block 0", "block 1"),))
    weights, *others = SearchSpace.each(search, asked)
    assert [len(g.layers) for g in weights.groups if g.layers[0].allocated] == [8]
    assert all(len(g.layers) == 1 for space in others for g in space.groups)


def test_ties_bind_layers_and_pins_whatever_is_chosen(tmp_path):
    search = search_over(vit_adapter(2), tmp_path)
    asked = replace(
        budget(3), unit="bops", allocate="layers_and_operands", ties="types", pins=(("block 1 attn.qk", 5),)
    )
    with pytest.raises(LampQError, match="names none of the 12 sites"):
        SearchSpace.open(search, asked)
    space = SearchSpace.open(search, replace(asked, pins=(("blocks.1.attn.qk", 5),)))
    names = [g.name for g in space.groups]
    assert names == [
        "qkv",
        "blocks.0.attn.qk",
        "blocks.0.attn.pv",
        "proj",
        "fc1",
        "fc2",
        *[f"blocks.1.attn.{m}" for m in ("qk", "pv")],
    ]
    assert space.groups[6].bits == (5,) and space.groups[6].pinned
    with pytest.raises(LampQError, match=r"blocks\.1\.attn\.qk names none of the 8 layers"):
        SearchSpace.check(search.adapter, replace(asked, allocate="layers", pins=(("blocks.1.attn.qk", 5),)))


def test_operands_over_their_limit_are_one_line(tmp_path):
    asked = replace(budget(3, (3, 4)), fixed_site_bits=(3, 2), allocate="layers_and_operands")
    with pytest.raises(
        LampQError, match=r"fixed_site_bits: the limit of .* operand bits is below the .* of the smallest"
    ):
        SearchSpace.check(vit_adapter(2), asked)
