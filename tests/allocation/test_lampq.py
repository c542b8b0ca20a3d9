"""LampQ as a whole: metric, initial assignment and update on a small model, and what each option changes."""

import json
import math
from dataclasses import replace

import pytest

from lampq.allocation.lampq import LampQ
from lampq.allocation.least_score import LeastScore
from lampq.allocation.search_space import SearchSpace
from lampq.allocation.solvers.ilp import solve_ilp
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.plan.sites import LAYER_TYPES
from lampq.sensitivity.context import Context
from lampq.sensitivity.fisher import Fisher
from lampq.sensitivity.hessian_trace import Hessian
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
    assert not search.evaluator.score(initial).improves_on(search.evaluator.score(plan))


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
    "type_traces": "at_beta",
    "trace_per": "parameter",
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
    "metric": "hessian",
    "resolve": 2,
    "swap_estimates": "metric",
    "drop_error": "blocks_and_images",
    "additions": True,
    "accept": "loss",
    "accept_factor": 0.0,
    "stop_early": 0.5,
}
WITH = {
    "accept_factor": {"accept": "paired"},
    "additions": {"start": "uniform"},
    "drop_error": {"drop": "auto", "mu": 0.3},
}
"""What else an option needs to have an effect."""


def test_the_options_below_are_all_there_are():
    parameters = LampQ.__init__.__code__.co_varnames[1 : LampQ.__init__.__code__.co_argcount]
    assert set(OPTIONS) == set(parameters)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_has_an_effect(search, store, option):
    usual = {"drop": "accuracy", **WITH.get(option, {})}
    if option == "stop_early":
        search = search_over(vit_adapter(), store, sample_images=160)
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


def test_wrong_options_are_refused():
    for option in [
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
        {"drop_error": "layers"},
        {"additions": 1},
        {"accept": "better"},
        {"accept_factor": -1},
        {"stop_early": 0},
    ]:
        with pytest.raises(LampQError) as caught:
            LampQ(**option)
        (name,) = option
        assert f".{name}=" in str(caught.value) and "\n" not in str(caught.value), option


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


def test_the_settings_of_the_papers_algorithm_are_what_they_always_were():
    """Fingerprints of finished runs hang on them: options that the paper does not have show up only when used."""
    usual = {"mu": 0.5, "beta": 2, "gamma": 4, "type_scaling": True, "iterative_update": True, "drop": "auto"}
    usual |= {"labels": "sampled", "gain_ratios": "recomputed", "swaps": "feasible", "try_next_pairs": 4}
    assert LampQ().settings() == {**usual, "maximum_swaps": None} and LampQ.revision == 1
    assert LampQ(start="uniform").settings() == {
        "start": "uniform",
        **{key: usual[key] for key in ("iterative_update", "gain_ratios", "swaps", "try_next_pairs")},
        "maximum_swaps": None,
    }


METRICS = ("fisher", "hessian", "output_fisher", "weight_error", "reconstruction", "single_layer_loss")


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_measured_by_bits_needs_no_gamma(search, metric):
    # All blocks: with half of them the losses of single fc1 layers are noise around 0 here.
    first, other = (LampQ(metric=metric, gamma=gamma, mu=1, iterative_update=False) for gamma in (4, 20))
    by_bits = metric not in ("fisher", "hessian")
    assert (first.settings() == other.settings()) == by_bits
    one, two = (allocator.allocate(search, budget()).origin["objective"] for allocator in (first, other))
    assert (one == two) == by_bits


@pytest.mark.parametrize("metric", ["output_fisher", "weight_error", "reconstruction", "single_layer_loss"])
def test_a_types_mean_at_beta_bits_is_its_drop_by_any_metric(search, metric):
    plan = LampQ(metric=metric, mu=1, beta=2, drop="loss", iterative_update=False).allocate(search, budget())
    for type in LAYER_TYPES:
        rows = [plan.origin["scores"][s.name] for s in search.layers if s.type == type]
        drop = plan.origin["type_scaling"]["drop"][type]
        assert math.fsum(row["2"] for row in rows) / len(rows) == pytest.approx(drop, rel=1e-9)
        assert all(list(row.values()) == sorted(row.values(), reverse=True) for row in rows)
    assert {s.name: plan[s.name].score for s in search.layers} == {
        name: row["3"] for name, row in plan.origin["scores"].items()
    }


def test_beta_may_be_outside_the_bit_set(search):
    plan = LampQ(metric="output_fisher", beta=1, mu=1, iterative_update=False).allocate(search, budget())
    assert set(plan.origin["scores"][search.layers[0].name]) == {"2", "3", "4", "5"}
    alpha, scores = plan.origin["type_scaling"]["alpha"], plan.origin["scores"]
    raw = [scores[s.name]["2"] / alpha["qkv"] for s in search.layers if s.type == "qkv"]
    assert plan.origin["type_scaling"]["mean_trace"]["qkv"] > math.fsum(raw) / len(raw), "one bit costs more than two"


def test_without_type_scaling_a_metric_by_bits_is_the_metric_alone(search):
    by_metric = LampQ(metric="output_fisher", labels="dataset", type_scaling=False, iterative_update=False)
    one, other = (allocator.allocate(search, budget()) for allocator in (by_metric, LeastScore("output_fisher")))
    assert one.origin["scores"] == other.origin["scores"]


def test_negative_hessian_traces_count_as_zero(search):
    plan = LampQ(metric="hessian", type_scaling=False, iterative_update=False).allocate(search, budget())
    found = Hessian(labels="sampled").estimated(search).trace.tolist()
    traces = {s.name: max(value, 0.0) for s, value in zip(search.layers, found, strict=True)}
    assert plan.origin["hessian_traces"] == traces
    assert {s.name: plan[s.name].score for s in search.layers} == traces


@pytest.mark.parametrize("metric", ["fisher", "output_fisher"])
def test_solving_again_keeps_the_best_plan_on_d(search, metric):
    options = {"metric": metric, "iterative_update": False}
    first = LampQ(**options).allocate(search, budget())
    plan = LampQ(**options, resolve=3).allocate(search, budget())
    history = plan.origin["resolved"]
    assert history[0]["bits"] == first.layer_bits() and 2 <= len(history) <= 4
    best = max(history, key=lambda step: (step["accuracy"], -step["loss"]))
    assert plan.layer_bits() == best["bits"] == plan.origin["initial_bits"]
    bits = [tuple(step["bits"].values()) for step in history]
    assert len(set(bits)) == len(bits), "a plan was tried twice"
    for step in history:
        assert search.evaluator.score(budget().plan(search.adapter.sites, step["bits"])).accuracy == step["accuracy"]


def test_the_second_solution_is_that_of_the_metric_in_the_model_at_the_first_plan(search):
    first = LampQ(iterative_update=False).allocate(search, budget())
    again = LampQ(iterative_update=False, resolve=1)
    traces = Fisher().traces(search, first)
    assert all(traces[name] != first.origin["fisher_traces"][name] for name in traces)
    alpha = first.origin["type_scaling"]["alpha"]
    scaled = {s.name: {b: alpha[s.type] * traces[s.name] * 4.0**-b for b in (2, 3, 4, 5)} for s in search.layers}
    space = SearchSpace.open(search, budget())
    expected = space.layer_bits(space.solved(scaled, solve_ilp).bits)
    assert again.allocate(search, budget()).origin["resolved"][1]["bits"] == expected


def test_swaps_by_the_metric_are_those_that_promise_most_of_what_the_program_added_up(search):
    options = {"metric": "output_fisher", "type_scaling": False, "swap_estimates": "metric"}
    plan = LampQ(**options, try_next_pairs=3).allocate(search, budget())
    scores, bits = plan.origin["scores"], dict(plan.origin["initial_bits"])
    swaps = plan.origin["swaps"]
    assert len(swaps) >= 4
    for swap in swaps:
        up, down = (scores[swap[key]] for key in ("up", "down"))
        now = bits[swap["up"]], bits[swap["down"]]
        assert swap["gain"] == pytest.approx(up[str(now[0])] - up[str(now[0] + 1)], rel=1e-12)
        assert swap["cost"] == pytest.approx(down[str(now[1] - 1)] - down[str(now[1])], rel=1e-12)
        # From the program's own plan no swap promises anything; the least loss comes first.
        if swap["accepted"]:
            bits[swap["up"]] += 1
            bits[swap["down"]] -= 1
    promise = [swap["gain"] - swap["cost"] for swap in swaps[:2]]
    assert promise[0] <= 1e-9 or swaps[0]["accepted"]


@pytest.mark.parametrize("start", ["ilp", "uniform"])
def test_swaps_in_context_promise_what_is_predicted_at_the_plan_that_they_are_tried_on(search, start):
    plan = LampQ(swap_estimates="context", start=start, accept="loss", try_next_pairs=8).allocate(search, budget())
    bits, swaps = dict(plan.origin["initial_bits"]), plan.origin["swaps"]
    assert any(swap["accepted"] for swap in swaps)
    for swap in swaps:
        now = budget().plan(search.adapter.sites, bits)
        up, down = (Context().scores(search, budget(), now)[swap[key]] for key in ("up", "down"))
        assert swap["gain"] == -up[bits[swap["up"]] + 1] and swap["cost"] == down[bits[swap["down"]] - 1]
        if swap["accepted"]:
            bits = {**bits, swap["up"]: bits[swap["up"]] + 1, swap["down"]: bits[swap["down"]] - 1}
    settings = LampQ(swap_estimates="context").settings()
    assert settings["swap_estimates"] == "context" and "gain_ratios" not in settings


def test_a_greedy_solver_is_never_better_than_an_exact_one(search):
    exact = LampQ(iterative_update=False).allocate(search, budget()).origin
    greedy = LampQ(iterative_update=False, solver="greedy").allocate(search, budget())
    assert greedy.origin["objective"] >= exact["objective"] * (1 - 1e-9) and "greedy" in greedy.origin["solver"]
    budget().check_feasible(search.adapter.sites, greedy)
    assert LampQ(solver="greedy").settings()["solver"] == "greedy"


def test_line_5_as_printed_takes_traces_at_beta_bits_and_omega_those_of_full_precision(search):
    found = LampQ(mu=1.0, type_traces="at_beta", iterative_update=False).allocate(search, budget())
    usual = LampQ(mu=1.0, iterative_update=False).allocate(search, budget())
    for type in LAYER_TYPES:
        layers = [s for s in search.layers if s.type == type]
        plan = BitPlan.full_precision(search.adapter.sites).with_bits({s.name: (2, 2) for s in layers})
        traces = Fisher().traces(search, plan)
        mean = math.fsum(traces[s.name] for s in layers) / len(layers)
        assert found.origin["type_scaling"]["mean_trace"][type] == pytest.approx(mean)
    assert found.origin["fisher_traces"] == usual.origin["fisher_traces"]
    assert found.origin["type_scaling"]["drop"] == usual.origin["type_scaling"]["drop"]


def test_traces_per_parameter_rank_layers_of_one_type_by_their_mean_over_weights(search):
    whole = LampQ(mu=1.0, iterative_update=False).allocate(search, budget())
    each = LampQ(mu=1.0, trace_per="parameter", iterative_update=False).allocate(search, budget())
    for site in search.layers:
        assert each.origin["fisher_traces"][site.name] * site.parameters == pytest.approx(
            whole.origin["fisher_traces"][site.name]
        )


def test_what_does_not_fit_together_is_one_line():
    for options, line in [
        ({"type_traces": "at_beta", "metric": "hessian"}, "allocator.metric=hessian has no trace in a quantized model"),
        ({"trace_per": "parameter", "metric": "weight_error"}, "allocator.metric=weight_error is no trace"),
        ({"metric": "trace"}, "allocator.metric=trace: must be one of context, fisher, hessian"),
        ({"resolve": -1}, "allocator.resolve=-1: must be an integer of at least 0"),
        (
            {"resolve": 2, "metric": "weight_error"},
            "allocator.metric=weight_error is not measured in a quantized model",
        ),
        ({"swap_estimates": "metric", "start": "uniform"}, "with allocator.start=uniform no metric is measured"),
    ]:
        with pytest.raises(LampQError) as caught:
            LampQ(**options)
        assert line in str(caught.value) and "\n" not in str(caught.value), (options, line)


BOPS = replace(budget(), unit="bops", allocate="all")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("metric", ["output_fisher", "hawq_v2"])
def test_pinned_layers_keep_their_bits_where_more_than_layers_is_chosen(metric, bits, tmp_path):
    search = search_over(vit_adapter(2), tmp_path)
    asked = replace(budget(4), unit="bops", allocate="layers_and_operands", pins=(("blocks.0.mlp.fc2", bits),))
    plan = LampQ(metric=metric, type_scaling=False, try_next_pairs=2, max_evaluations=3).allocate(search, asked)
    assert plan["blocks.0.mlp.fc2"].bits == (bits, bits)
    space = SearchSpace.open(search, asked)
    assert space.spent(space.numbers_in(plan)) <= space.room


def test_groups_that_have_the_same_in_common_are_searched(tmp_path):
    search = search_over(vit_adapter(2), tmp_path)
    ties = ("blocks.0.attn.qkv", "blocks.0.mlp.fc1"), ("blocks.0.attn.proj", "blocks.0.mlp.fc2")
    bits = LampQ(max_evaluations=3).allocate(search, replace(budget(), ties=ties)).layer_bits()
    assert all(bits[one] == bits[other] for one, other in ties)


def test_type_scaling_by_a_metric_that_is_0_at_beta_is_one_line(search):
    with pytest.raises(LampQError, match=r"metric=context: its mean over the qkv layers at lampq.beta=2 bits"):
        LampQ(metric="context", iterative_update=False).allocate(search, budget(2, (2, 3, 4)))


def test_beta_is_asked_of_the_base_quantizer_only_where_it_is_used():
    assert LampQ(beta=1).needed_bits() == [("lampq.beta", 1)]
    assert LampQ(beta=1, type_scaling=False).needed_bits() == []


def test_with_a_trace_problem_1_is_the_layers_and_the_update_swaps_whatever_there_is(tmp_path):
    search = search_over(vit_adapter(2), tmp_path)
    plan = LampQ(start="ilp", try_next_pairs=30).allocate(search, BOPS)
    layers = LampQ(iterative_update=False).allocate(search, replace(BOPS, allocate="layers"))
    assert plan.origin["initial_bits"] == layers.layer_bits(), "one limit, and all else at its fixed bits"
    space = SearchSpace.open(search, BOPS)
    assert space.spent(space.numbers_in(plan)) <= space.room
    touched = {search.adapter.site(s[move]).type for s in plan.origin["swaps"] for move in ("up", "down")}
    assert touched & {"qk", "pv", "patch_embed", "head"}
    measured = LampQ(gain_ratios="measured", try_next_pairs=0).allocate(search, BOPS)
    assert all(s["gain"] >= 0 for s in measured.origin["swaps"][:1])


@pytest.mark.parametrize("estimates", ["metric", "context"])
def test_with_a_metric_of_sites_problem_1_has_them_all(estimates, tmp_path):
    search = search_over(vit_adapter(2), tmp_path)
    options = {"metric": "output_fisher", "type_scaling": False}
    plan = LampQ(**options, swap_estimates=estimates, try_next_pairs=0).allocate(search, BOPS)
    best = LeastScore("output_fisher").allocate(search, BOPS)
    start = LampQ(**options, iterative_update=False).allocate(search, BOPS)
    layers = LeastScore("output_fisher").allocate(search, replace(BOPS, allocate="layers"))
    assert start.key() == best.key() != layers.key()
    assert plan.origin["swaps"] and set(plan.origin["scores"]) == {s.name for s in search.adapter.sites}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"metric": "output_fisher"},
            "allocator.type_scaling=true: with allocate=all, metric=output_fisher scores more",
        ),
        (
            {"metric": "output_fisher", "type_scaling": False, "resolve": 1},
            "allocator.resolve=1: with allocate=all, metr",
        ),
        (
            {"swap_estimates": "metric"},
            "allocator.swap_estimates=metric: with allocate=all, metric=fisher scores layers",
        ),
        (
            {"iterative_update": False},
            "allocator.iterative_update=false: with allocate=all, metric=fisher scores layers",
        ),
    ],
)
def test_options_that_leave_sites_out_are_one_line(options, line):
    LampQ(**options).check_chosen(budget())
    with pytest.raises(LampQError) as caught:
        LampQ(**options).check_chosen(BOPS)
    assert line in str(caught.value) and "\n" not in str(caught.value)
