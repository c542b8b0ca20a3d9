"""CLADO: the plan of least expected loss by what was measured, what its options change, and what it tells."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from lampq.allocation.clado import Clado, quadratic_problem
from lampq.allocation.search_space import SearchSpace
from lampq.allocation.solvers.quadratic_program import positive_semidefinite
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.errors import LampQError
from lampq.sensitivity.pairwise_loss import neighbours, pairwise_losses
from tests.allocation.budgets import budget
from tests.small_models import search_over, vit_adapter

THREE = budget(candidates=(2, 3, 4))


@pytest.fixture
def search(store):
    return search_over(vit_adapter(blocks=2), store, sample_images=20)


def cost_of(space, matrix, bits):
    """x^T G x of the plan with these bits of each group."""
    entries = {entry: n for n, entry in enumerate((i, b) for i, group in enumerate(space.groups) for b in group.bits)}
    at = [entries[entry] for entry in enumerate(bits)]
    return matrix[np.ix_(at, at)].sum()


def least_cost(space, matrix):
    """The least x^T G x of all plans within the budget."""
    plans = itertools.product(*(group.bits for group in space.groups))
    fit = (p for p in plans if sum(g.spending[b] for g, b in zip(space.groups, p, strict=True)) <= space.room)
    return min(cost_of(space, matrix, plan) for plan in fit)


@pytest.mark.parametrize("convex", [True, False])
@pytest.mark.parametrize("pairs", ["all", "diagonal"])
def test_the_plan_is_the_best_of_all(search, pairs, convex):
    plan = Clado(pairs, convex, maximum_nodes=None).allocate(search, THREE)
    space = SearchSpace.open(search, THREE)
    measured = pairwise_losses(search, THREE, space.groups, pairs).matrix()
    matrix = positive_semidefinite(measured)[0] if convex else measured
    best = least_cost(space, matrix)
    assert cost_of(space, matrix, plan.layer_bits().values()) == pytest.approx(best, rel=1e-7, abs=1e-9)
    assert plan.origin["objective"] == pytest.approx(best, rel=1e-7, abs=1e-9)
    THREE.check_feasible(search.adapter.sites, plan)
    assert plan.origin["optimal"] and plan.origin["gap"] == 0
    assert plan.origin["lower_bound"] == plan.origin["objective"]
    clipped = (np.linalg.eigvalsh(measured) < -1e-12).sum() if convex else 0
    assert plan.origin["eigenvalues_clipped"] == clipped


def test_it_tells_what_it_weighed(search):
    plan = Clado(convex=False, maximum_nodes=None).allocate(search, THREE)
    losses = pairwise_losses(search, THREE, SearchSpace.open(search, THREE).groups, "all")
    bits, told = list(plan.layer_bits().values()), plan.origin
    alone = math.fsum(told["loss_increases"][s.name][str(b)] for s, b in zip(search.layers, bits, strict=True))
    rows = [THREE.candidates.index(b) for b in bits]
    terms = {pair: float(t[rows[pair[0]], rows[pair[1]]]) for pair, t in losses.cross_terms().items()}
    assert told["expected_loss_increase"] == pytest.approx(alone + math.fsum(terms.values()))
    assert told["objective"] == pytest.approx(2 * told["expected_loss_increase"])
    assert told["pairs_measured"] == len(terms) == 28
    strongest = told["strongest_cross_terms"]
    assert len(strongest) == 10 and abs(strongest[0]["cross_term"]) == max(map(abs, terms.values()))
    assert strongest[0]["bits"] == [plan[name].weight_bits for name in strongest[0]["layers"]]
    assert {s.name: plan[s.name].score for s in search.layers} == {
        name: row["3"] for name, row in told["loss_increases"].items()
    }
    assert json.loads(json.dumps(plan.to_json())) == plan.to_json()


def test_what_is_clipped_is_told_apart_from_what_was_measured(search):
    convex, measured = (Clado(convex=c, maximum_nodes=None).allocate(search, THREE) for c in (True, False))
    assert convex.origin["eigenvalues_clipped"] > 0
    # Clipping only adds, and the plan that is best without it is better by what was measured.
    assert convex.origin["objective"] >= 2 * convex.origin["expected_loss_increase"] - 1e-12
    assert convex.origin["expected_loss_increase"] >= measured.origin["expected_loss_increase"]


@pytest.mark.parametrize("option", [{"pairs": "near"}, {"pairs": "diagonal"}, {"convex": False}], ids=str)
def test_every_option_changes_the_plan(store, option):
    search = search_over(vit_adapter(), store, sample_images=20)
    usual, other = Clado(), Clado(**option)
    assert other.allocate(search, THREE).layer_bits() != usual.allocate(search, THREE).layer_bits()
    assert other.settings() != usual.settings()


def test_few_nodes_leave_a_gap_and_say_so(store):
    search = search_over(vit_adapter(), store, sample_images=20)
    full, short = (Clado(maximum_nodes=n).allocate(search, THREE) for n in (None, 1))
    assert full.origin["optimal"] and not short.origin["optimal"]
    assert "stopped at maximum_nodes=1" in short.origin["solver"] and short.origin["gap"] > 0
    assert short.origin["lower_bound"] <= full.origin["objective"] <= short.origin["objective"]
    THREE.check_feasible(search.adapter.sites, short)


@pytest.mark.parametrize(
    "bound",
    [
        replace(THREE, ties="modules"),
        replace(THREE, pins=(("blocks.0.attn.qkv", 6), ("blocks.1.mlp.fc2", 2))),
        replace(THREE, unit="bops"),
        replace(THREE, unit="packed_bytes"),
    ],
    ids=["ties", "pins", "bit operations", "bytes"],
)
def test_ties_pins_and_units_of_the_budget_are_kept(search, bound):
    plan = Clado(maximum_nodes=None).allocate(search, bound)
    space = SearchSpace.open(search, bound)
    matrix = positive_semidefinite(pairwise_losses(search, bound, space.groups, "all").matrix())[0]
    bits = space.group_bits(plan.layer_bits())
    assert plan.layer_bits() == space.layer_bits(bits.values()) and space.spent(bits) <= space.room
    best = least_cost(space, matrix)
    assert cost_of(space, matrix, bits.values()) == pytest.approx(best, rel=1e-7, abs=1e-9)
    if bound.pins:
        assert plan["blocks.0.attn.qkv"].weight_bits == 6 and plan["blocks.1.mlp.fc2"].weight_bits == 2
    if bound.ties == "modules":
        assert plan["blocks.0.attn.qkv"].bits == plan["blocks.0.attn.proj"].bits


def test_entries_of_the_matrix_find_their_layer_and_bits(search):
    space = SearchSpace.open(search, replace(THREE, pins=(("blocks.0.attn.qkv", 6),)))
    size = 1 + 7 * 3
    numbers = np.random.default_rng(0).normal(0, 1, (size, size))
    matrix = numbers + numbers.T
    problem = quadratic_problem(space, matrix)
    assert problem.linear.bits == space.bits == (2, 3, 4, 6)
    assert np.isfinite(problem.linear.costs).tolist() == [[False] * 3 + [True]] + [[True] * 3 + [False]] * 7
    at = [0, *(1 + 3 * layer + layer % 3 for layer in range(7))]
    assert problem.objective([3, 0, 1, 2, 0, 1, 2, 0]) == pytest.approx(matrix[np.ix_(at, at)].sum())


def test_nothing_is_computed_twice(search):
    first = Clado().allocate(search, THREE)
    again = search_over(vit_adapter(blocks=2), search.store.root, sample_images=20)
    assert Clado().allocate(again, THREE).to_json() == first.to_json()
    assert again.evaluator.evaluations == 0 and not again.store.seconds_computed
    # Another budget is another program over the same scores.
    other = Clado().allocate(again, budget("2.5", THREE.candidates))
    assert again.evaluator.evaluations == 0 and set(again.store.seconds_computed) == {"quadratic_programs"}
    assert other.layer_bits() != first.layer_bits()


def test_what_cannot_be_met_is_one_line(search):
    class FromThreeBits(RoundToNearest):
        minimum_bits = 3

    with pytest.raises(LampQError, match="below the smallest achievable average, 3;"):
        Clado().allocate(search, budget(2, (3, 4)))
    with pytest.raises(LampQError, match="not defined at 2 bits"):
        Clado().allocate(search_over(vit_adapter(), search.store.root, base_quantizer=FromThreeBits()), THREE)
    for wrong, message in [
        ({"pairs": "nearby"}, r"allocator\.pairs=nearby: must be one of all, near, diagonal"),
        ({"convex": "yes"}, r"allocator\.convex=yes: must be true or false"),
        ({"maximum_nodes": 0}, r"allocator\.maximum_nodes=0: must be an integer of at least 1, or null"),
    ]:
        with pytest.raises(LampQError, match=message):
            Clado(**wrong)


def test_operands_and_what_lies_outside_the_blocks_interact_too(store):
    search = search_over(vit_adapter(blocks=1), store, sample_images=20)
    asked = replace(THREE, unit="bops", allocate="all")
    plan, space = Clado(convex=False, maximum_nodes=None).allocate(search, asked), SearchSpace.open(search, asked)
    losses = pairwise_losses(search, asked, space.groups, "all")
    assert len(losses.pair) == 8 * 7 / 2 and len(space.groups) == 8
    bits = [plan[g.name].activation_bits if g.layers[0].is_matmul else plan[g.name].weight_bits for g in space.groups]
    best = least_cost(space, losses.matrix())
    assert cost_of(space, losses.matrix(), bits) == pytest.approx(best, rel=1e-7, abs=1e-9)
    assert not neighbours(space.groups[0], space.groups[1]), "the patch embedding is in no block"
