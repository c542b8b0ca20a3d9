"""LampQ as a whole: metric, initial assignment and update on a small model, and what each option changes."""

import json
import math

import pytest

from lampq.allocation.lampq import LampQ
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.errors import LampQError
from lampq.layers import LAYER_TYPES
from lampq.plan import BitPlan
from tests.allocation.budgets import budget
from tests.small_models import search_over, swin_adapter, vit_adapter


def record_of(plan):
    """What a plan tells of its making, without the options themselves."""
    return json.dumps({key: value for key, value in plan.origin.items() if key != "settings"}, sort_keys=True)


def test_the_plan_keeps_the_budget_and_tells_how_it_came_about(search):
    plan = LampQ(try_next_pairs=3).allocate(search, budget())
    budget().check_feasible(search.adapter.sites, plan)
    assert set(plan.layer_bits().values()) <= {2, 3, 4, 5} and len(set(plan.layer_bits().values())) > 1
    origin = plan.origin
    assert origin["allocator"] == "lampq" and origin["settings"] == LampQ(try_next_pairs=3).settings()
    assert set(origin["initial_bits"]) == set(origin["fisher_traces"]) == {site.name for site in search.layers}
    alpha = origin["type_scaling"]["alpha"]
    for site in search.layers:
        assert plan[site.name].score == pytest.approx(alpha[site.type] * origin["fisher_traces"][site.name])
        assert plan[site.name].score > 0
    assert all(site.score is None for site in plan.sites if not site.allocated)
    assert BitPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan

    # The swaps lead from the initial bits to the final ones.
    bits = dict(origin["initial_bits"])
    for swap in origin["swaps"]:
        if swap["accepted"]:
            bits[swap["up"]] += 1
            bits[swap["down"]] -= 1
    assert bits == plan.layer_bits()
    initial = budget().plan(search.adapter.sites, origin["initial_bits"])
    assert not search.evaluator.score(initial).better_than(search.evaluator.score(plan))


def test_the_initial_bits_are_the_best_of_a_sample_of_plans(search):
    plan = LampQ(iterative_update=False).allocate(search, budget())
    assert plan.layer_bits() == plan.origin["initial_bits"] and "swaps" not in plan.origin

    def objective(bits):
        return math.fsum(4.0 ** -bits[site.name] * plan[site.name].score for site in search.layers)

    assert plan.origin["objective"] == pytest.approx(objective(plan.layer_bits()), rel=1e-9)
    for up in search.layers:
        for down in search.layers:
            bits = dict(plan.layer_bits())
            bits[up.name] += 1
            bits[down.name] -= 1
            spent = sum(site.parameters * bits[site.name] for site in search.layers)
            inside = spent <= budget().total([site.parameters for site in search.layers])
            if up is not down and inside and set(bits.values()) <= {2, 3, 4, 5}:
                assert objective(bits) >= plan.origin["objective"] * (1 - 1e-6)


def test_with_mu_one_the_mean_score_of_a_type_is_its_drop(search):
    plan = LampQ(mu=1, drop="loss", iterative_update=False).allocate(search, budget())
    for type in LAYER_TYPES:
        scores = [site.score for site in plan.sites if site.type == type]
        assert math.fsum(scores) / len(scores) == pytest.approx(plan.origin["type_scaling"]["drop"][type], rel=1e-9)


def test_the_same_seed_gives_the_same_plan_in_another_store(search, tmp_path):
    for seed in (0, 1):
        one = LampQ().allocate(search_over(vit_adapter(), tmp_path / "one", seed=seed), budget())
        other = LampQ().allocate(search_over(vit_adapter(), tmp_path / "other", seed=seed), budget())
        assert one.to_json() == other.to_json()
    assert one.origin["fisher_traces"] != LampQ().allocate(search, budget()).origin["fisher_traces"]


def test_what_was_computed_is_not_computed_again(tmp_path):
    first = search_over(vit_adapter(), tmp_path)
    plan = LampQ().allocate(first, budget())
    assert first.evaluator.evaluations > 4
    second = search_over(vit_adapter(), tmp_path)
    assert LampQ().allocate(second, budget()) == plan
    assert second.evaluator.evaluations == 0 and not second.store.seconds_computed
    spent, read = first.store.seconds_computed, second.store.seconds_read
    assert read == {kind: pytest.approx(seconds, rel=1e-9) for kind, seconds in spent.items()}, "all that it had cost"
    assert second.task.dataset.reads["sample"] == 0


OPTIONS = {
    "mu": 1,
    "beta": 3,
    "gamma": 20,
    "type_scaling": False,
    "iterative_update": False,
    "solver": "dynamic_program",
    "drop": "loss",
    "labels": "dataset",
    "gain_ratios": "paper",
    "swaps": "literal",
    "try_next_pairs": 0,
    "maximum_swaps": 0,
    "max_evaluations": 0,
    "start": "uniform",
}


def test_the_options_below_are_all_there_are():
    parameters = LampQ.__init__.__code__.co_varnames[1 : LampQ.__init__.__code__.co_argcount]
    assert set(OPTIONS) == set(parameters)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_has_an_effect(search, option):
    usual = {"drop": "accuracy"}
    before = LampQ(**usual).allocate(search, budget())
    after = LampQ(**{**usual, option: OPTIONS[option]}).allocate(search, budget())
    assert record_of(before) != record_of(after)
    if option == "solver":
        assert before.layer_bits() == after.layer_bits() and "CBC" in before.origin["solver"]
        assert before.origin["objective"] == after.origin["objective"]
    else:
        assert LampQ(**usual).settings() != LampQ(**{**usual, option: OPTIONS[option]}).settings()


@pytest.mark.parametrize("ratios", ["recomputed", "paper", "measured"])
def test_each_kind_of_ratios_gives_its_own_gains(search, ratios):
    swaps = LampQ(gain_ratios=ratios).allocate(search, budget()).origin["swaps"]
    others = [LampQ(gain_ratios=r).allocate(search, budget()) for r in {"recomputed", "paper", "measured"} - {ratios}]
    assert all(swaps[0]["gain"] != other.origin["swaps"][0]["gain"] for other in others)


def test_labels_drawn_from_the_model_are_not_those_of_the_data_set(search):
    drawn = LampQ(iterative_update=False).allocate(search, budget()).origin["fisher_traces"]
    given = LampQ(iterative_update=False, labels="dataset").allocate(search, budget()).origin["fisher_traces"]
    assert all(drawn[name] != given[name] for name in drawn)


def test_without_type_scaling_the_score_is_the_trace(search):
    plan = LampQ(type_scaling=False).allocate(search, budget())
    assert plan.origin["type_scaling"] is None
    assert {site.name: plan[site.name].score for site in search.layers} == plan.origin["fisher_traces"]


def test_a_drop_within_noise_is_measured_by_the_loss(search, caplog):
    with caplog.at_level("INFO", "lampq"):
        plan = LampQ(drop="auto", beta=8, iterative_update=False).allocate(search, budget())
    assert plan.origin["type_scaling"]["measure"] == "loss" and "mean loss increase" in caplog.text
    literal = LampQ(drop="accuracy", beta=8, iterative_update=False).allocate(search, budget())
    assert literal.origin["type_scaling"]["measure"] == "accuracy"


def test_settings_that_change_nothing_are_no_part_of_the_identity():
    assert LampQ(solver="ilp").settings() == LampQ(solver="dynamic_program").settings()
    assert LampQ(iterative_update=False, try_next_pairs=3).settings() == LampQ(iterative_update=False).settings()
    assert LampQ(type_scaling=False, mu=1, beta=4).settings() == LampQ(type_scaling=False).settings()
    assert LampQ(iterative_update=False).settings() != LampQ().settings()


@pytest.mark.parametrize("target", ["2", "2.5", "3.3", "5"])
def test_fractional_and_extreme_budgets(store, target):
    search = search_over(swin_adapter(), store)
    plan = LampQ(try_next_pairs=1).allocate(search, budget(target))
    budget(target).check_feasible(search.adapter.sites, plan)
    if target in ("2", "5"):
        assert set(plan.layer_bits().values()) == {int(target)}


def test_what_cannot_be_met_is_one_line(search):
    class FromThreeBits(RoundToNearest):
        minimum_bits = 3

    for allocator, target, candidates in (
        (LampQ(), 2, (3, 4)),
        (LampQ(), 3, (2, 3, 17)),
    ):
        with pytest.raises(LampQError) as caught:
            allocator.allocate(search, budget(target, candidates))
        assert "\n" not in str(caught.value)
    limited = search_over(vit_adapter(), search.store.root, base_quantizer=FromThreeBits())
    for candidates in ((2, 3, 4), (3, 4)):  # the bit set itself, then beta
        with pytest.raises(LampQError, match="not defined at 2 bits"):
            LampQ(beta=2).allocate(limited, budget(3, candidates))


@pytest.mark.parametrize(
    "option",
    [
        {"mu": 0},
        {"mu": 1.5},
        {"mu": True},
        {"beta": 0},
        {"beta": 2.5},
        {"gamma": 1},
        {"gamma": math.nan},
        {"type_scaling": "yes"},
        {"iterative_update": 1},
        {"solver": "ilpp"},
        {"drop": "top1"},
        {"labels": "own"},
        {"gain_ratios": None},
        {"swaps": "all"},
        {"try_next_pairs": -1},
        {"maximum_swaps": 1.5},
    ],
)
def test_wrong_options_are_refused(option):
    with pytest.raises(LampQError) as caught:
        LampQ(**option)
    (name,) = option
    assert f".{name}=" in str(caught.value) and "\n" not in str(caught.value)


def test_a_uniform_start_scores_nothing_before_its_first_plan(search):
    plan = LampQ(start="uniform").allocate(search, budget())
    assert set(plan.origin["initial_bits"].values()) == {3} and "fisher_traces" not in plan.origin
    assert search.evaluator.scored == 1 + len(plan.origin["swaps"])
    budget().check_feasible(search.adapter.sites, plan)


@pytest.mark.parametrize("target", [budget("3.5"), budget(3, (2, 4))], ids=["fractional", "not in the set"])
def test_a_uniform_start_needs_a_target_of_the_bit_set(search, target):
    with pytest.raises(LampQError, match=r"allocator.start=uniform: weight_bits=3.* is not in bit_set.bits=\[2"):
        LampQ(start="uniform").allocate(search, target)


def test_no_more_plans_are_scored_than_allowed(search):
    unlimited = LampQ(start="uniform", try_next_pairs=3).allocate(search, budget()).origin["swaps"]
    assert len(unlimited) > 2
    limited = LampQ(start="uniform", try_next_pairs=3, max_evaluations=2).allocate(search, budget()).origin["swaps"]
    assert limited == unlimited[:2]
