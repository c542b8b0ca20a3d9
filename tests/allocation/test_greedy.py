"""Greedy descent: each step is the cheapest of those tried, D is asked no more than allowed, the budget is kept."""

import json
import math
from dataclasses import replace

import pytest
import torch

from lampq.allocation.greedy import Greedy, per_unit, ranked_steps
from lampq.allocation.search_space import SearchSpace
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.errors import LampQError
from lampq.plan.groups import Group
from lampq.plan.sites import Site
from lampq.sensitivity.output_fisher import OutputFisher
from lampq.sensitivity.scores import falling
from tests.allocation.budgets import budget
from tests.small_models import search_over, swin_adapter, vit_adapter


def replayed(search, plan, target):
    """Every step of a plan: (bits before it, the step)."""
    bits = {s.name: max(target.candidates) for s in search.layers}
    for step in plan.origin["steps"]:
        yield dict(bits), step
        bits[step["layer"]] = step["bits"]
    assert bits == plan.layer_bits()


def spent(search, bits):
    return sum(s.parameters * bits[s.name] for s in search.layers)


@pytest.mark.parametrize("candidates", [(2, 3, 4, 5), (2, 4, 6)], ids=str)
def test_each_step_is_the_cheapest_of_those_tried(store, candidates):
    search, target = search_over(vit_adapter(), store), budget(3, candidates)
    plan = Greedy().allocate(search, target)
    sites, sizes = search.adapter.sites, {s.name: s.parameters for s in search.layers}
    limit = target.total(list(sizes.values()))
    lower = dict(zip(candidates[1:], candidates, strict=False))
    screen = {name: {int(b): v for b, v in row.items()} for name, row in plan.origin["screen"].items()}
    groups = SearchSpace.open(search, target).groups
    for bits, step in replayed(search, plan, target):
        assert spent(search, bits) > limit, "no step once the budget holds"
        ranked = [group.name for group in ranked_steps(groups, bits, screen)]
        assert set(step["losses"]) == (set(ranked[:3]) if len(ranked) > 1 else set())
        assert step["bits"] == lower[bits[step["layer"]]]
        assert step["saved"] == sizes[step["layer"]] * (bits[step["layer"]] - step["bits"])
        now = search.evaluator.score(target.plan(sites, bits)).mean_loss
        ratios = {}
        for name, loss in step["losses"].items():
            after = target.plan(sites, {**bits, name: lower[bits[name]]})
            assert search.evaluator.score(after).mean_loss == loss
            ratios[name] = (loss - now) / (sizes[name] * (bits[name] - lower[bits[name]]))
        assert not ratios or ratios[step["layer"]] == min(ratios.values())
    assert spent(search, plan.layer_bits()) <= limit
    assert any(list(step["losses"])[-1] != step["layer"] for step in plan.origin["steps"] if step["losses"]), (
        "D never overruled the screen, so nothing was tested"
    )


def test_by_the_screen_alone(store):
    search = search_over(vit_adapter(), store)
    plan = Greedy(evaluate=1).allocate(search, budget())
    assert search.evaluator.scored == 0
    screen = {n: falling(row) for n, row in OutputFisher().scores(search, budget()).items()}
    for bits, step in replayed(search, plan, budget()):
        price = {
            s.name: (screen[s.name][bits[s.name] - 1] - screen[s.name][bits[s.name]]) / s.parameters
            for s in search.layers
            if bits[s.name] > 2
        }
        assert price[step["layer"]] == min(price.values()) and step["losses"] == {}
    assert plan.origin["steps_by_the_screen_alone"] == len(plan.origin["steps"]) > 3
    assert {s.name: plan[s.name].score for s in search.layers} == {n: row[3] for n, row in screen.items()}


@pytest.mark.parametrize(("limit", "tried"), [(0, []), (1, []), (5, [3, 2]), (6, [3, 3]), (7, [3, 3])])
def test_evaluations_are_limited_and_the_screen_goes_on(store, limit, tried):
    search = search_over(vit_adapter(), store)
    plan = Greedy(max_evaluations=limit).allocate(search, budget())
    counts = [len(step["losses"]) for step in plan.origin["steps"]]
    assert counts[: len(tried)] == tried and not any(counts[len(tried) :])
    assert search.evaluator.scored == (1 + sum(tried) if tried else 0)
    assert plan.origin["steps_by_the_screen_alone"] == len(counts) - len(tried) > 0
    budget().check_feasible(search.adapter.sites, plan)
    # Its first steps are those of the unlimited descent.
    free = Greedy().allocate(search, budget())
    assert plan.origin["steps"][: len([n for n in tried if n == 3])] == free.origin["steps"][: tried.count(3)]


def test_every_option_changes_the_plan(search):
    usual = Greedy().allocate(search, budget())
    for option in ({"screen": "reconstruction"}, {"evaluate": 1}, {"evaluate": 6}, {"max_evaluations": 0}):
        other = Greedy(**option)
        assert other.allocate(search, budget()).layer_bits() != usual.layer_bits(), option
        assert other.settings() != Greedy().settings()
    assert Greedy(evaluate=1, max_evaluations=5).settings() == Greedy(evaluate=1).settings()


@pytest.mark.parametrize("target", ["2", "2.5", "3.3", "5"])
def test_fractional_and_extreme_budgets(store, target):
    search = search_over(swin_adapter(), store)
    plan = Greedy(max_evaluations=9).allocate(search, budget(target))
    budget(target).check_feasible(search.adapter.sites, plan)
    assert json.loads(json.dumps(plan.origin)) == plan.origin
    if target in ("2", "5"):
        assert set(plan.layer_bits().values()) == {int(target)}
    if target == "5":
        assert plan.origin["steps"] == [] and search.evaluator.scored == 0


def test_the_same_from_an_interrupted_search(tmp_path):
    whole = Greedy().allocate(search_over(vit_adapter(), tmp_path / "whole"), budget())
    search = search_over(vit_adapter(), tmp_path / "parts")
    score, calls = search.evaluator.score, []

    def until_the_tenth(plan, keep=False):
        calls.append(plan)
        if len(calls) > 10:
            raise KeyboardInterrupt
        return score(plan, keep)

    search.evaluator.score = until_the_tenth
    with pytest.raises(KeyboardInterrupt):
        Greedy().allocate(search, budget())
    again = search_over(vit_adapter(), tmp_path / "parts")
    assert Greedy().allocate(again, budget()) == whole
    assert again.evaluator.evaluations == again.evaluator.scored - 10


def test_a_collapsed_plan_is_never_the_cheapest(store):
    search = search_over(vit_adapter(), store)
    score, spoilt = search.evaluator.score, search.layers[0].name

    def collapses(plan, keep=False):
        found = score(plan, keep)
        return replace(found, loss=torch.full_like(found.loss, math.nan)) if plan[spoilt].weight_bits < 5 else found

    search.evaluator.score = collapses
    plan = Greedy(evaluate=len(search.layers)).allocate(search, budget(4))
    assert plan[spoilt].weight_bits == 5 and len(plan.origin["steps"]) > 3


def test_prices_by_hand():
    def group(name, size, *members):
        sites = tuple(Site(n, "fc1", 0, size, size, 1) for n in members or (name,))
        return Group(name, sites, {2: 0, 4: 2 * size * len(sites)}, False)

    groups = [group("a", 4), group("b", 1), group("c", 1)]
    scores = {"a": {2: 8.0, 4: 0.0}, "b": {2: 3.0, 4: 0.0}, "c": {2: 1.0, 4: 0.5}}
    ranked = ranked_steps(groups, {"a": 4, "b": 4, "c": 4}, scores)
    assert [g.name for g in ranked] == ["c", "a", "b"]  # 0.25, 1, 1.5 for a bit of a weight
    assert [g.name for g in ranked_steps(groups, {"a": 4, "b": 4, "c": 2}, scores)] == ["a", "b"]
    tied = [group("a", 4), group("b and c", 1, "b", "c")]  # 1 and (3 + 0.5) / 4
    assert [g.name for g in ranked_steps(tied, {"a": 4, "b and c": 4}, scores)] == ["b and c", "a"]
    assert per_unit(3.0, 2) == 1.5 and per_unit(math.nan, 2) == per_unit(1.0, 0) == math.inf


def test_what_cannot_be_met_is_one_line(search):
    class FromThreeBits(RoundToNearest):
        minimum_bits = 3

    with pytest.raises(LampQError, match="below the smallest achievable average, 3;"):
        Greedy().allocate(search, budget(2, (3, 4)))
    with pytest.raises(LampQError, match="not defined at 2 bits"):
        limited = search_over(vit_adapter(), search.store.root, base_quantizer=FromThreeBits())
        Greedy().allocate(limited, budget())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"screen": "loss"}, "allocator.screen=loss: must be one of "),
        ({"evaluate": 0}, "allocator.evaluate=0: must be an integer of at least 1"),
        ({"max_evaluations": -1}, "max_evaluations=-1: must be an integer of at least 0, or null"),
    ],
)
def test_wrong_values_are_one_line(options, line):
    with pytest.raises(LampQError) as caught:
        Greedy(**options)
    assert line in str(caught.value)


def test_operands_go_down_with_the_layers_under_one_limit(store):
    search = search_over(vit_adapter(2), store)
    asked = replace(budget(3), unit="bops", allocate="layers_and_operands")
    plan = Greedy(evaluate=1).allocate(search, asked)
    space = SearchSpace.open(search, asked)
    screen = space.scored(OutputFisher(), search, asked)
    bits = {g.name: 5 for g in space.groups}
    for step in plan.origin["steps"]:
        assert step["layer"] == ranked_steps(space.groups, bits, screen)[0].name
        bits[step["layer"]] = step["bits"]
    assert {name: plan[name].activation_bits for name in bits} == bits and space.spent(bits) <= space.room
    assert {"qk", "pv"} & {plan[step["layer"]].type for step in plan.origin["steps"]}
    assert plan["blocks.0.attn.qk"].score == screen["blocks.0.attn.qk"][3]
    tried = Greedy(evaluate=2).allocate(search, asked)
    assert any(name.endswith(("qk", "pv")) for step in tried.origin["steps"] for name in step["losses"])
