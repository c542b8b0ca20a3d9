"""The random control: within the budget, nothing left to spend, and each draw a plan of its own."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lampq.allocation.random_plan import RandomPlan, generator_of, random_choice
from lampq.allocation.search_space import SearchSpace
from lampq.allocation.solvers.allocation_problem import AllocationProblem
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.errors import LampQError
from tests.allocation.budgets import budget
from tests.small_models import search_over, swin_adapter, vit_adapter


def problem(sizes, total, candidates=(2, 3, 4, 5)):
    return AllocationProblem.checked(np.zeros((len(sizes), len(candidates))), sizes, candidates, total)


@pytest.mark.parametrize("build", [vit_adapter, swin_adapter], ids=["vit", "swin"])
@pytest.mark.parametrize("target", ["2.7", "3"])
def test_the_budget_is_kept_and_no_further_bit_fits(build, target, tmp_path):
    search, target = search_over(build(), tmp_path), budget(target)
    for draw in range(3):
        bits = RandomPlan(draw).allocate(search, target).layer_bits()
        room = target.total([s.parameters for s in search.layers])
        room -= sum(s.parameters * bits[s.name] for s in search.layers)
        assert room >= 0 and len(set(bits.values())) > 1
        assert all(s.parameters > room for s in search.layers if bits[s.name] < 5)


def test_steps_are_those_of_the_bit_set():
    for draw in range(50):
        asked = problem([3, 1, 4, 4], 12 * 4, (2, 4, 8))
        choice = random_choice(asked, generator_of(0, draw))
        spent = sum(c * (2, 4, 8)[k] for c, k in zip([3, 1, 4, 4], choice, strict=True))
        steps = [c * (2, 4)[k] for c, k in zip([3, 1, 4, 4], choice, strict=True) if k < 2]
        assert spent <= 48 and all(step > 48 - spent for step in steps)


def test_forbidden_widths_are_not_drawn():
    costs = np.zeros((4, 4))
    costs[0, :3] = costs[1, 1:3] = np.inf  # layer 0 is pinned to 5 bits, layer 1 has 2 or 5
    asked = AllocationProblem.checked(costs, [3, 1, 4, 4], (2, 3, 4, 5), 12 * 3.6)
    drawn = [random_choice(asked, generator_of(0, draw)) for draw in range(60)]
    assert all(asked.fits(choice) for choice in drawn)
    assert {choice[0] for choice in drawn} == {3} and {choice[1] for choice in drawn} == {0, 3}
    assert {choice[2] for choice in drawn} == {0, 1, 2}  # 5 bits would not leave 2 for the last


def test_the_distribution_is_the_one_described():
    """A layer of two weights and one of one, bits {1, 2, 3}, seven weight bits: only (2, 3) and (3, 1) spend them.

    Of the nine first draws, equally likely, these two stay, those above come down and those below go up, with a fair
    coin wherever there is a choice.
    """
    up = {(1, 3): 1, (2, 2): 1, (2, 1): 1 / 2}  # how likely each first draw ends as (2, 3)
    up[1, 2] = (up[2, 2] + up[1, 3]) / 2
    up[1, 1] = (up[2, 1] + up[1, 2]) / 2
    down = {(3, 2): 1 / 2, (3, 3): 1 / 2 + 1 / 4}
    share = sum({(2, 3): 1, (3, 1): 0, **up, **down}.values()) / 9
    asked = problem([2, 1], 7, (1, 2, 3))
    found = Counter(tuple(asked.bits_of(random_choice(asked, generator_of(0, draw)))) for draw in range(9000))
    assert set(found) == {(2, 3), (3, 1)}
    assert abs(found[2, 3] - 9000 * share) < 4 * (9000 * share * (1 - share)) ** 0.5


def test_each_draw_and_each_seed_has_a_plan_of_its_own(store):
    plans = {}
    for seed in (0, 1):
        for draw in (0, 1, 2):
            plan = RandomPlan(draw).allocate(search_over(vit_adapter(), store, seed=seed), budget())
            assert plan == RandomPlan(draw).allocate(search_over(vit_adapter(), store, seed=seed), budget())
            plans[seed, draw] = plan.key()
    assert len(set(plans.values())) == 6
    assert RandomPlan(0).settings() != RandomPlan(1).settings()


def test_it_tells_what_d_says_of_the_plan(store):
    search = search_over(vit_adapter(), store)
    plan = RandomPlan().allocate(search, budget())
    score = search.evaluator.score(plan)
    assert (plan.origin["accuracy"], plan.origin["loss"]) == (score.accuracy, score.mean_loss)
    assert search.evaluator.scored == 1


def test_what_cannot_be_met_is_one_line(store):
    class FromThreeBits(RoundToNearest):
        minimum_bits = 3

    with pytest.raises(LampQError, match="below the smallest achievable average, 3;"):
        RandomPlan().allocate(search_over(vit_adapter(), store), budget(2, (3, 4)))
    with pytest.raises(LampQError, match="not defined at 2 bits"):
        RandomPlan().allocate(search_over(vit_adapter(), store, base_quantizer=FromThreeBits()), budget())
    for draw in (-1, 1.5, True, None):
        with pytest.raises(LampQError, match=r"allocator\.draw="):
            RandomPlan(draw)


@pytest.mark.parametrize("unit", ["bops", "average_bits"])
@pytest.mark.parametrize("rule", ["fixed", "independent"])
def test_whatever_is_chosen_is_drawn_within_every_limit(unit, rule, tmp_path):
    search = search_over(vit_adapter(2), tmp_path)
    asked = replace(budget(3), unit=unit, activation_rule=rule, allocate="all")
    plan = RandomPlan().allocate(search, asked)
    for space in SearchSpace.each(search, asked):
        numbers = {}
        for group in space.groups:
            bits = plan[group.name].bits
            fits = [
                n
                for n, pair in group.pairs.items()
                if all(b in (None, mine) for b, mine in zip(pair, bits, strict=True))
            ]
            (numbers[group.name],) = fits
        assert space.spent(numbers) <= space.room and len(set(numbers.values())) > 1
    assert {s.type for s in plan.sites if s.bits != (3, 3)} >= {"qk", "pv"}
