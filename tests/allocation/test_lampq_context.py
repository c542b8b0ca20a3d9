"""LampQ in context: rounds near the last plan, their predictions beside what D says, and D's verdict obeyed."""

import inspect
import itertools
import json
from dataclasses import replace

import pytest

from lampq.allocation.lampq import LampQ
from lampq.allocation.lampq_context import LampQContext
from lampq.allocation.search_space import SearchSpace
from lampq.errors import LampQError
from lampq.plan.budget import realised_costs
from lampq.sensitivity.context import layer_changes, predicted
from lampq.tasks.score import paired_change
from tests.allocation.budgets import budget
from tests.small_models import search_over, vit_adapter

OPTIONS = {
    "start": "lampq_ilp",
    "rounds": 1,
    "trust": 2,
    "changes": "measured",
    "measurements": 2,
    "context_images": 16,
    "cross_terms": False,
    "maximum_nodes": None,
    "accept": "accuracy",
    "accept_factor": 50,
    "mu": 1.0,
    "beta": 4,
    "gamma": 20,
    "max_evaluations": 0,
}
USED_WITH = {
    "maximum_nodes": {"trust": 6},
    "measurements": {"changes": "measured", "accept": "loss", "trust": 4},
    **{option: {"start": "lampq_ilp", "rounds": 0, "gamma": 2} for option in ("mu", "beta", "gamma")},
}


def record_of(plan):
    """What was found, without the settings that led to it."""
    return plan.layer_bits(), {key: value for key, value in plan.origin.items() if key != "settings"}


def plans_of(search, plan, target):
    """The accepted plan before each round, and the one that was tried in it."""
    bits, pairs = plan.origin["initial_bits"], []
    for each in plan.origin["rounds"]:
        assert all(bits[name] == before for name, (before, _) in each["changes"].items())
        moved = {**bits, **{name: after for name, (_, after) in each["changes"].items()}}
        pairs.append(tuple(target.plan(search.adapter.sites, found) for found in (bits, moved)))
        bits = moved if each["accepted"] else bits
    assert bits == plan.layer_bits()
    return pairs


@pytest.fixture(scope="module")
def found(store):
    search = search_over(vit_adapter(), store)
    return search, LampQContext(trust=6, accept_factor=0, cross_terms=False).allocate(search, budget())


def test_every_round_tells_what_was_predicted_and_what_d_says(found):
    search, plan = found
    rounds, pairs = plan.origin["rounds"], plans_of(search, plan, budget())
    assert any(each["accepted"] for each in rounds) and json.loads(json.dumps(plan.to_json()))["origin"]["rounds"]
    for each, (before, after) in zip(rounds, pairs, strict=True):
        old, new = search.evaluator.score(before), search.evaluator.score(after)
        assert (each["change"], each["standard_error"]) == paired_change(new, old)
        assert each["accepted"] == new.improves_on(old, "paired", 0) and each["loss"] == new.mean_loss
        changes = layer_changes(search, budget(), before)
        expected = sum(predicted(changes[name][bits]) for name, (_, bits) in each["changes"].items())
        assert each["predicted"] == pytest.approx(expected, rel=1e-9) and each["expected"] < 0


def test_few_layers_change_and_fewer_after_a_plan_that_is_not_better(found):
    rounds = found[1].origin["rounds"]
    assert rounds[0]["trust"] == 6 and all(len(each["changes"]) <= each["trust"] for each in rounds)
    for one, other in itertools.pairwise(rounds):
        assert other["trust"] == (min(2 * one["trust"], 6) if one["accepted"] else max(len(one["changes"]) // 2, 2))
    assert not all(each["accepted"] for each in rounds)


def test_what_a_refused_plan_was_worse_than_expected_is_laid_on_its_changes(found):
    learned, seen = {}, False
    for each in found[1].origin["rounds"]:
        moves = [(name, bits) for name, (_, bits) in each["changes"].items()]
        surprise = sum(learned.get(move, 0) for move in moves)
        seen |= surprise != 0
        assert each["expected"] == pytest.approx(each["predicted"] + surprise, rel=1e-9)
        for move in moves:
            learned[move] = learned.get(move, 0) + (each["change"] - each["expected"]) / len(moves)
        learned = {} if each["accepted"] else learned
    assert seen


def test_a_round_takes_the_best_plan_that_is_near_enough(tmp_path):
    """Out of all plans of one block in which no more than two layers change, by their sums of predictions."""
    search, target = search_over(vit_adapter(1), tmp_path), budget(3, (2, 3, 4))
    plan = LampQContext(trust=2, rounds=1, cross_terms=False).allocate(search, target)
    (before, after), each = plans_of(search, plan, target)[0], plan.origin["rounds"][0]
    changes, space = layer_changes(search, target, before), SearchSpace.open(search, target)
    here, sums = before.layer_bits(), {}
    for bits in itertools.product((2, 3, 4), repeat=4):
        chosen = dict(zip(here, bits, strict=True))
        moved = {name: b for name, b in chosen.items() if b != here[name]}
        if len(moved) <= 2 and space.spent(chosen) <= space.room:
            sums[bits] = sum(predicted(changes[name][b]) for name, b in moved.items())
    best = min(sums, key=sums.get)
    assert tuple(after.layer_bits().values()) == best and each["predicted"] == pytest.approx(sums[best], rel=1e-9)


def test_with_cross_terms_the_prediction_is_that_of_all_changes_together(found):
    search, alone = found
    plan = LampQContext(trust=6, accept_factor=0).allocate(search, budget())
    for each, (before, _) in zip(plan.origin["rounds"], plans_of(search, plan, budget()), strict=True):
        changes = layer_changes(search, budget(), before)
        together = sum(changes[name][bits] for name, (_, bits) in each["changes"].items())
        assert each["predicted"] == pytest.approx(predicted(together), rel=1e-6)
    assert plan.origin["rounds"][0] != alone.origin["rounds"][0]


def test_measured_changes_are_what_d_says_of_each_alone_and_serve_all_rounds(store):
    search, target = search_over(vit_adapter(), store), budget()
    plan = LampQContext(changes="measured", accept="loss", trust=4).allocate(search, target)
    rounds, (measured,) = plan.origin["rounds"], plan.origin["measured"]
    assert any(each["accepted"] for each in rounds) and len(rounds) > 1
    first = target.plan(search.adapter.sites, plan.origin["initial_bits"])
    for name, row in measured.items():
        assert set(row) == {"2", "3", "4"} and row["3"] == 0, "one bit more, one bit less"
        other = target.plan(search.adapter.sites, {**plan.origin["initial_bits"], name: 4})
        assert row["4"] == pytest.approx(paired_change(*map(search.evaluator.score, (other, first)))[0], rel=1e-9)
    for each in rounds:
        moves = [(measured[name][str(old)], measured[name][str(new)]) for name, (old, new) in each["changes"].items()]
        assert each["predicted"] == pytest.approx(sum(new - old for old, new in moves), rel=1e-9)


def test_changes_are_measured_again_where_the_first_measurement_leads_no_further(store):
    search, target = search_over(vit_adapter(), store), budget()
    once, twice = (
        LampQContext(changes="measured", measurements=n, accept="loss", trust=4).allocate(search, target)
        for n in (1, 2)
    )
    first, second = twice.origin["measured"]
    assert first == once.origin["measured"][0] and second != first
    steps = len(list(itertools.takewhile(lambda each: each["accepted"], twice.origin["rounds"])))
    assert twice.origin["rounds"][:steps] == once.origin["rounds"][:steps]
    here = target.plan(search.adapter.sites, twice.origin["initial_bits"])
    for each, (before, _) in zip(twice.origin["rounds"], plans_of(search, twice, target), strict=True):
        here = before if each["trust"] == 4 else here
    assert twice.origin["rounds"][-1]["loss"] <= once.origin["rounds"][0]["loss"]


def test_a_plan_that_was_refused_is_not_tried_again(store):
    """It helps a little, and less than is asked for."""
    search = search_over(vit_adapter(), store)
    plan = LampQContext(changes="measured", accept_factor=50, trust=4).allocate(search, budget())
    tried = [each["changes"] for each in plan.origin["rounds"]]
    assert plan.origin["rounds"][-1]["change"] < 0 and not any(each["accepted"] for each in plan.origin["rounds"])
    assert 1 < len(tried) < 12 and all(one != other for one, other in itertools.combinations(tried, 2))


def test_room_that_is_left_is_used(store):
    search = search_over(vit_adapter(), store)
    plan = LampQContext(accept="loss", trust=4).allocate(search, budget("3.5"))
    assert set(plan.origin["initial_bits"].values()) == {3}, "the most equal bits that keep the budget"
    assert realised_costs(search.adapter.sites, plan)["average_weight_bits"] > 3.3
    pinned = replace(budget(4), candidates=(2, 3, 4), pins=(("block 0", 5),))
    start = LampQContext(rounds=0).allocate(search, pinned).origin["initial_bits"]
    assert {bits for name, bits in start.items() if ".0." not in name} == {3}, "pins leave less"


@pytest.mark.parametrize("start", ["uniform", "lampq_ilp"])
def test_operands_and_everything_outside_the_blocks_are_changed_under_one_limit(store, start):
    search, target = search_over(vit_adapter(), store), replace(budget(), unit="bops", allocate="all")
    plan = LampQContext(start=start, accept="loss", rounds=3).allocate(search, target)
    rounds, sites = plan.origin["rounds"], search.adapter.sites
    assert any(each["accepted"] for each in rounds)
    kinds = {search.adapter.site(name).type for each in rounds for name in each["changes"]}
    assert kinds & {"qk", "pv"} and kinds & {"head", "patch_embed"}
    equal = target.plan(sites, {s.name: 3 for s in search.layers})
    assert realised_costs(sites, plan)["bops"] <= realised_costs(sites, equal)["bops"]
    after = {name: bits for each in rounds if each["accepted"] for name, (_, bits) in each["changes"].items()}
    assert all(bits in plan[name].bits for name, bits in after.items())


@pytest.mark.parametrize("changes", ["gradient", "measured"])
def test_weight_bits_and_input_bits_are_changed_in_pairs_under_one_limit(store, changes):
    search = search_over(vit_adapter(), store)
    target = replace(budget(), unit="bops", allocate="all", activation_rule="independent")
    plan = LampQContext(changes=changes, accept="loss", rounds=3).allocate(search, target)
    equal = target.plan(search.adapter.sites, {s.name: 3 for s in search.layers})
    assert realised_costs(search.adapter.sites, plan)["bops"] <= realised_costs(search.adapter.sites, equal)["bops"]
    after = {name: b for each in plan.origin["rounds"] if each["accepted"] for name, (_, b) in each["changes"].items()}
    assert after and all(b in (plan[name].bits.text, *plan[name].bits) for name, b in after.items())
    layers = [plan[s.name].bits for s in search.layers]
    assert any(bits.weight != bits.activation for bits in layers)
    for name, row in plan.origin.get("measured", [{}])[0].items():
        if search.adapter.site(name).allocated:
            assert set(row) == {f"W{w}A{a}" for w in (2, 3, 4) for a in (2, 3, 4)}, name


def test_pairs_may_start_from_lampqs_plan(store):
    search = search_over(vit_adapter(), store)
    target = replace(budget(), unit="bops", activation_rule="independent")
    plan = LampQContext(start="lampq_ilp", rounds=0, gamma=2).allocate(search, target)
    expected = LampQ(gamma=2, iterative_update=False).allocate(search, replace(target, activation_rule="fixed"))
    assert {s.name: s.bits for s in plan.sites} == {s.name: s.bits for s in expected.sites}


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_rule": "independent", "activation_bits": 4, "pins": (("blocks.0.attn.qkv", 9),)},
        {"activation_rule": "independent", "allocate": "layers_and_operands", "pins": (("qk", 4),)},
    ],
)
def test_a_start_that_pins_put_above_the_budget_is_equal_bits(changes, store):
    search, target = search_over(vit_adapter(), store), replace(budget(), unit="bops", **changes)
    plan = LampQContext(start="lampq_ilp", rounds=0, gamma=2).allocate(search, target)
    (space,) = SearchSpace.each(search, target)
    assert space.spent(space.numbers_in(plan)) <= space.room


def test_the_first_plan_may_be_lampqs(store):
    search = search_over(vit_adapter(), store)
    plan = LampQContext(start="lampq_ilp", rounds=0, gamma=2).allocate(search, budget())
    expected = LampQ(gamma=2, iterative_update=False).allocate(search, budget()).layer_bits()
    assert plan.layer_bits() == expected and len(set(expected.values())) > 1 and plan.origin["rounds"] == []


def test_the_options_below_are_all_there_are():
    assert list(OPTIONS) == list(inspect.signature(LampQContext).parameters)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_has_an_effect(store, option):
    search, usual = search_over(vit_adapter(), store), {"accept_factor": 0, **USED_WITH.get(option, {})}
    before, after = LampQContext(**usual), LampQContext(**{**usual, option: OPTIONS[option]})
    assert record_of(before.allocate(search, budget())) != record_of(after.allocate(search, budget()))
    assert before.settings() != after.settings()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"trust": 1}, "allocator.trust=1: "),
        ({"start": "random"}, "allocator.start=random: "),
        ({"accept_factor": -1}, "allocator.accept_factor=-1: "),
        ({"rounds": -1}, "allocator.rounds=-1: "),
    ],
)
def test_mistakes_are_one_line(option, message):
    with pytest.raises(LampQError, match=message) as caught:
        LampQContext(**option)
    assert "\n" not in str(caught.value)
