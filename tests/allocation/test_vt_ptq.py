"""VT-PTQ: bits by module, the frontier's best on D, and what its options change."""

from fractions import Fraction

import pytest

from lampq.allocation.vt_ptq import VTPTQ
from lampq.errors import LampQError
from lampq.plan.budget import Budget
from lampq.plan.sites import MODULES
from tests.small_models import search_over, swin_adapter, vit_adapter

BUDGET = Budget(Fraction(3), Fraction(3), (2, 3, 4, 5), "fixed", (3, 3), "target")


@pytest.mark.parametrize("build", [vit_adapter, swin_adapter], ids=["vit", "swin"])
def test_the_layers_of_a_module_share_their_bits(build, tmp_path):
    search = search_over(build(), tmp_path)
    plan = VTPTQ(candidates=10).allocate(search, BUDGET)
    for block in range(search.adapter.blocks):
        for types in MODULES.values():
            assert len({plan[s.name].weight_bits for s in search.layers if s.block == block and s.type in types}) == 1
    BUDGET.check_feasible(search.adapter.sites, plan)
    assert len(set(plan.layer_bits().values())) > 1


def test_the_frontier_is_ordered_by_omega_and_its_best_on_d_is_taken(store):
    search = search_over(vit_adapter(), store)
    plan = VTPTQ(candidates=12).allocate(search, BUDGET)
    frontier = plan.origin["frontier"]
    assert len(frontier) == 12 and [p["omega"] for p in frontier] == sorted(p["omega"] for p in frontier)
    best = max(frontier, key=lambda p: (p["accuracy"], -p["loss"]))
    score = search.evaluator.score(plan)
    assert (score.accuracy, score.mean_loss) == (best["accuracy"], best["loss"])


def test_the_knapsack_takes_the_least_omega_without_looking_at_d(store):
    search = search_over(vit_adapter(), store)
    plan = VTPTQ("knapsack").allocate(search, BUDGET)
    assert search.evaluator.scored == 0 and "frontier" not in plan.origin
    spent = sum(
        plan.origin["omega"][f"{s.block} {m}"][str(plan[s.name].weight_bits)] / 2
        for s in search.layers
        for m, types in MODULES.items()
        if s.type in types
    )
    frontier = VTPTQ(candidates=3).allocate(search_over(vit_adapter(), store), BUDGET).origin["frontier"]
    costs = [min(v.values()) for v in plan.origin["omega"].values()]
    assert spent == pytest.approx(frontier[0]["omega"], rel=1e-9) and spent >= sum(costs)


def test_candidates_and_evaluations_limit_what_is_scored(store):
    for options, scored in (({"candidates": 5}, 5), ({"candidates": 50, "max_evaluations": 3}, 4)):
        search = search_over(vit_adapter(), store)
        plan = VTPTQ(**options).allocate(search, BUDGET)
        assert search.evaluator.scored == scored == len(plan.origin["frontier"])
    assert VTPTQ(candidates=5).settings() != VTPTQ(candidates=6).settings() != VTPTQ("knapsack").settings()
    assert VTPTQ("knapsack", error="map").settings() != VTPTQ("knapsack").settings()
    assert VTPTQ(max_evaluations=3).settings() != VTPTQ().settings()


def test_scores_of_the_layers_of_a_module_are_the_modules(store):
    search = search_over(vit_adapter(), store)
    plan = VTPTQ("knapsack").allocate(search, BUDGET)
    assert all(
        plan[s.name].score == plan.origin["omega"][f"{s.block} MSA"]["3"] for s in search.layers if s.type == "qkv"
    )


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"selection": "best"}, "allocator.selection=best: must be one of frontier, knapsack"),
        ({"candidates": 0}, "allocator.candidates=0: must be an integer of at least 1"),
        ({"max_evaluations": -1}, "max_evaluations=-1: must be an integer of at least 0, or null"),
    ],
)
def test_wrong_values_are_one_line(options, line):
    with pytest.raises(LampQError) as caught:
        VTPTQ(**options)
    assert line in str(caught.value)
