"""Plans solved from stored scores: the allocator's own at its budget, and at any other; prices; what is refused."""

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from lampq.allocation.lampq import LampQ
from lampq.allocation.least_score import LeastScore
from lampq.allocation.stored_scores import at_target, budget_of, sites_of, stored_scores
from lampq.allocation.uniform import Uniform
from lampq.allocation.vt_ptq import VTPTQ
from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from tests.allocation.budgets import budget

SCORING = {
    "lampq": LampQ(iterative_update=False, mu=0.4),
    "output_fisher": LeastScore("output_fisher"),
    "hawq_v2": LeastScore("hawq_v2", hessian_images=8, probes=2),
    "vt_ptq": VTPTQ("knapsack"),
}


@pytest.fixture(params=SCORING)
def allocator(request):
    return SCORING[request.param]


def made(allocator, search, target=3, **changes):
    """An allocator's plan, as it comes back from a file."""
    plan = allocator.allocate(search, replace(budget(target), **changes))
    return BitPlan.from_json(plan.to_json())


def test_at_every_budget_it_is_the_plan_that_the_allocator_itself_would_find(allocator, search):
    scores = stored_scores(made(allocator, search))
    for target in ("2.5", "3", "3.7"):
        solved, own = scores.solve(Fraction(target)), made(allocator, search, target)
        assert solved.layer_bits() == own.layer_bits() and solved.key() == own.key()
        assert solved.budget == own.budget
        assert [s.score for s in solved.sites] == pytest.approx([s.score for s in own.sites], nan_ok=True)


def test_ties_and_pins_of_the_budget_hold(allocator, search):
    bound = {"ties": "blocks", "pins": (("block 1", 7),)}
    scores = stored_scores(made(allocator, search, 4, **bound))
    solved = scores.solve(Fraction("4.5"))
    assert solved.layer_bits() == made(allocator, search, "4.5", **bound).layer_bits()
    for block in (0, 1, 2):
        bits = {s.weight_bits for s in solved.sites if s.allocated and s.block == block}
        assert len(bits) == 1 and (bits == {7}) == (block == 1)


def test_another_bit_set_is_used_as_far_as_it_was_scored(search):
    scores = stored_scores(made(LeastScore("output_fisher"), search))
    narrow = scores.solve(Fraction(3), (2, 4))
    assert set(narrow.layer_bits().values()) <= {2, 4} and narrow.budget["candidates"] == [2, 4]
    with pytest.raises(LampQError, match=r"no scores at 6 bits, only at \[2, 3, 4, 5\]"):
        scores.solve(Fraction(3), (2, 6))
    omega = stored_scores(made(SCORING["lampq"], search))
    assert set(omega.solve(Fraction(3), (2, 6)).layer_bits().values()) == {2, 6}, "a formula gives it at any bits"


def test_a_solved_plan_can_be_solved_again_and_names_the_plan_it_comes_from(allocator, search):
    plan = made(allocator, search)
    once = stored_scores(plan).solve(Fraction(4))
    assert once.origin["scores_of"] == plan.key() and once.origin["allocator"] == plan.origin["allocator"]
    assert stored_scores(once).solve(Fraction(3)).layer_bits() == plan.layer_bits()


def test_the_price_lies_between_what_the_solver_bought_and_what_it_did_not(search):
    """Convex costs: each step that was bought saves at least the price a weight bit, but for what did not fit."""
    scores = stored_scores(made(SCORING["lampq"], search))
    space, price = scores.space(), scores.price()
    costs = dict(zip([g.name for g in space.groups], scores.costs(space).tolist(), strict=True))
    sizes = {s.name: s.parameters for s in scores.plan.sites}
    steps = []
    for name, row in costs.items():
        here = scores.plan[name].weight_bits
        for bits, (before, after) in zip(space.bits[1:], itertools.pairwise(row), strict=True):
            steps.append(((before - after) / sizes[name], bits <= here))
    assert price > 0
    above, below = ([bought for saving, bought in steps if (saving > price) == side] for side in (True, False))
    assert sum(above) > 0.8 * len(above) and sum(below) < 0.2 * len(below)
    # The price is that of one step itself: exactly at it, solver and budget are even.
    assert min(abs(saving - price) for saving, _ in steps) < 1e-12 * price
    richer = replace(scores, budget=at_target(scores.budget, Fraction(4)))
    assert richer.price() < price, "what is bought last is worth less where more can be bought"
    full = replace(scores, budget=at_target(scores.budget, Fraction(5)))
    assert full.price() == 0, "everything fits"


def test_inputs_follow_the_weights_as_the_budget_says():
    base = budget(3)
    assert at_target(base, Fraction("3.5")).activation_bits == Fraction("3.5")
    w4a8 = replace(base, weight_bits=Fraction(4), activation_bits=Fraction(8))
    assert at_target(w4a8, Fraction(3)).activation_bits == 8
    assert at_target(replace(w4a8, activation_rule="follow"), Fraction(3)).activation_bits == 7


def test_what_lies_outside_the_layers_goes_with_the_target_where_it_was_at_it():
    base = replace(budget(3), fixed_site_bits=(3, 3))
    assert at_target(base, Fraction("4.5")).fixed_site_bits == (4, 4)
    assert at_target(replace(base, fixed_site_bits=(8, 8)), Fraction(4)).fixed_site_bits == (8, 8)
    w4a8 = replace(base, weight_bits=Fraction(4), activation_bits=Fraction(8), fixed_site_bits=(4, 8))
    assert at_target(w4a8, Fraction(3)).fixed_site_bits == (3, 8)


def test_sites_and_budget_come_back_from_a_plan(search):
    plan = made(SCORING["lampq"], search)
    asked = replace(budget(3), fixed_site_bits=(3, 3))
    assert budget_of(plan) == asked
    again = asked.plan(sites_of(plan), plan.layer_bits())
    assert again.key() == plan.key(), "all bits outside the layers as well"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unit": "bops"}, "counts bit operations"),
        ({"unit": "packed_bytes"}, "counts bytes"),
        ({"activation_rule": "independent"}, "bits of their own"),
        ({"allocate": "all"}, r"chosen for more than its layers \(allocate=all\)"),
    ],
)
def test_what_a_plan_file_does_not_tell_is_refused(search, changes, words):
    plan = made(SCORING["lampq"], search)
    with pytest.raises(LampQError, match=words) as caught:
        stored_scores(replace(plan, budget=plan.budget | changes))
    assert "\n" not in str(caught.value)


def test_a_plan_without_scores_a_budget_or_room_is_one_line(search):
    plan = made(SCORING["lampq"], search)
    with pytest.raises(LampQError, match="allocator=uniform left none"):
        stored_scores(Uniform().allocate(search, budget(3)))
    with pytest.raises(LampQError, match="does not name its budget"):
        stored_scores(replace(plan, budget={}))
    with pytest.raises(LampQError, match="smallest achievable average"):
        stored_scores(plan).solve(Fraction("1.5"))
    with pytest.raises(LampQError, match="cannot be spent on"):
        stored_scores(plan).solve(Fraction(7))


def test_costs_of_a_module_count_once(search):
    plan = made(SCORING["vt_ptq"], search)
    scores = stored_scores(plan)
    costs = scores.costs(scores.space())
    omega = [list(row.values()) for row in plan.origin["omega"].values()]
    assert np.array_equal(costs, np.array(omega))
