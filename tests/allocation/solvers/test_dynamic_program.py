"""The exact optimum, against trying every plan, and what the choice among tied plans promises."""

import itertools
import math
import time
from fractions import Fraction

import numpy as np
import pytest
import torch

from lampq.allocation.solvers.allocation_problem import AllocationProblem
from lampq.allocation.solvers.dynamic_program import Near, optimal_plan, solve_dynamic_program
from lampq.allocation.solvers.ilp import solve_ilp
from lampq.errors import LampQError
from tests.allocation.solvers.instances import WORKED, brute_force, random_instance, solved, spent, transformer_sizes


@pytest.mark.parametrize(("sizes", "omega", "gamma", "bits", "average", "expected", "objective"), WORKED)
def test_worked_examples(sizes, omega, gamma, bits, average, expected, objective):
    costs = torch.tensor([[w * float(gamma) ** -b for b in bits] for w in omega], dtype=torch.float64)
    allocation = solved(solve_dynamic_program, costs, sizes, list(bits), average * sum(sizes))
    assert allocation.bits == expected
    assert allocation.objective == pytest.approx(objective, rel=1e-12)


def test_equals_trying_every_plan():
    for seed in range(40):
        costs, sizes, bits, budget = random_instance(seed, layers=4 + seed % 2)
        if seed % 4 == 1:  # costs that are neither falling nor convex, some negative
            costs = np.random.default_rng(seed).normal(size=costs.shape)
        if seed % 4 == 2:  # ties in great number
            costs = np.ceil(np.log(costs) / 3) + 40
        if seed % 4 == 3:  # sizes without a common divisor
            sizes = [c * 9973 + 7 * i for i, c in enumerate(sizes, start=1)]
            budget = Fraction(7, 2) * sum(sizes)
        optimum, plan = brute_force(costs, sizes, bits, budget)
        allocation = solved(solve_dynamic_program, costs, sizes, bits, budget)
        assert allocation.bits == plan, seed
        assert abs(allocation.objective - optimum) <= 1e-6 * abs(optimum), seed


def test_forbidden_widths_are_not_chosen():
    for seed in range(10):
        costs, sizes, bits, _ = random_instance(seed, layers=5)
        forbidden = np.random.default_rng(seed).random(costs.shape) < 0.4
        forbidden[:, seed % len(bits)] = False
        costs[forbidden] = np.inf
        cheapest = sum(c * min(b for b, no in zip(bits, row, strict=True) if not no)
                       for c, row in zip(sizes, forbidden, strict=True))  # fmt: skip
        budget = cheapest + sum(sizes) // 2
        allocation = solved(solve_dynamic_program, costs, sizes, bits, budget)
        assert allocation.bits == brute_force(costs, sizes, bits, budget)[1], seed
        assert math.isfinite(allocation.objective), seed


def test_spending_need_not_be_proportional_to_bits():
    """A table instead of sizes: any integers that do not fall with more bits, some widths forbidden."""
    for seed in range(12):
        generator = np.random.default_rng(seed)
        spending = np.cumsum(generator.integers(0, 10**6, (5, 4)), axis=1)
        costs = generator.random((5, 4)) if seed % 2 else np.sort(generator.random((5, 4)))[:, ::-1]
        costs[generator.random(costs.shape) < 0.2] = np.inf
        costs[:, 0] = 2.0
        budget = int(spending[:, 0].sum() + generator.integers(0, 3 * 10**6))
        best = min(
            math.fsum(costs[i, k] for i, k in enumerate(plan))
            for plan in itertools.product(range(4), repeat=5)
            if sum(spending[i, k] for i, k in enumerate(plan)) <= budget
        )
        for solve in (solve_dynamic_program, solve_ilp):
            allocation = solved(solve, costs, spending, (2, 3, 4, 6), budget)
            assert allocation.objective == pytest.approx(best, rel=1e-6), seed
            columns = [(2, 3, 4, 6).index(b) for b in allocation.bits]
            assert sum(spending[i, k] for i, k in enumerate(columns)) <= budget, seed
        assert allocation.solver == "integer linear program (CBC)", seed


def test_sizes_are_the_table_of_size_times_bits():
    costs, sizes, bits, budget = random_instance(5, layers=8)
    table = np.outer(sizes, bits)
    by_table, by_size = (solved(solve_dynamic_program, costs, spends, bits, budget) for spends in (table, sizes))
    assert by_table == by_size


def test_budget_is_never_exceeded():
    rng = np.random.default_rng(0)
    for seed in range(60):
        layers = int(rng.integers(1, 30))
        costs, sizes, bits, budget = random_instance(seed, layers)
        allocation = solved(solve_dynamic_program, costs, sizes, bits, budget)
        assert spent(allocation.bits, sizes) <= budget
        # Nothing that would cost less still fits: no single layer can take a better width.
        for i, (b, c) in enumerate(zip(allocation.bits, sizes, strict=True)):
            room = budget - spent(allocation.bits, sizes) + b * c
            best = min(costs[i][k] for k, other in enumerate(bits) if other * c <= room)
            saved = costs[i][bits.index(b)] - best
            assert saved <= 1e-6 * allocation.objective


def test_the_budget_is_a_floor_of_an_exact_fraction():
    costs = np.array([[1.0, 0.0], [1.0, 0.1]])
    for budget, bits in ((Fraction(7, 2) * 4 + 1, [3, 2]), (Fraction(44, 3), [2, 2])):  # 15 of 15; 14.67: not 15
        assert solved(solve_dynamic_program, costs, [3, 3], [2, 3], budget).bits == bits


def test_permuting_layers_permutes_the_plan():
    for seed in range(5):
        sizes = transformer_sizes(192, 4)
        costs, _, bits, _ = random_instance(seed, len(sizes), sizes)
        budget = Fraction(7, 2) * sum(sizes)
        plan = solved(solve_dynamic_program, costs, sizes, bits, budget).bits
        order = np.random.default_rng(seed).permutation(len(sizes))
        permuted = solved(solve_dynamic_program, costs[order], [sizes[i] for i in order], bits, budget).bits
        assert permuted == [plan[i] for i in order], seed


@pytest.mark.parametrize("factor", [1e-20, 1e-7, 1e9])
def test_scaling_all_costs_changes_nothing(factor):
    sizes = transformer_sizes(384, 12)
    costs, _, bits, _ = random_instance(3, len(sizes), sizes)
    budget = 3 * sum(sizes)
    plain = solved(solve_dynamic_program, costs, sizes, bits, budget)
    scaled = solved(solve_dynamic_program, costs * factor, sizes, bits, budget)
    assert scaled.bits == plain.bits
    assert scaled.objective == pytest.approx(plain.objective * factor, rel=1e-12)


def test_the_order_of_the_bit_set_does_not_matter():
    costs, sizes, bits, budget = random_instance(8, layers=9)
    order = np.random.default_rng(0).permutation(len(bits))
    shuffled = solved(solve_dynamic_program, costs[:, order], sizes, [bits[k] for k in order], budget)
    assert shuffled == solved(solve_dynamic_program, costs, sizes, bits, budget)


def test_equal_sensitivity_for_each_parameter_gives_uniform_bits():
    sizes = transformer_sizes(96, 6)
    costs = np.array(sizes)[:, None] * 4.0 ** -np.arange(1, 7)
    assert solved(solve_dynamic_program, costs, sizes, range(1, 7), 3 * sum(sizes)).bits == [3] * 24


def test_ties_give_the_first_layers_the_most_bits():
    costs = np.tile(4.0 ** -np.arange(2, 6), (4, 1)) * np.array([[1], [1 + 1e-9], [1], [1 + 1e-8]])
    assert solved(solve_dynamic_program, costs, [5] * 4, range(2, 6), 14 * 5).bits == [4, 4, 3, 3]
    costs[2] *= 1.1  # no tie any more
    assert solved(solve_dynamic_program, costs, [5] * 4, range(2, 6), 14 * 5).bits == [4, 3, 4, 3]


def test_a_budget_for_everything_gives_every_layer_its_best():
    costs, sizes, bits, _ = random_instance(1, layers=12)
    allocation = solved(solve_dynamic_program, costs, sizes, bits, 32 * sum(sizes))
    assert allocation.bits == [bits[-1]] * 12


def test_a_budget_that_only_the_smallest_plan_meets():
    costs, sizes, bits, _ = random_instance(1, layers=12)
    assert solved(solve_dynamic_program, costs, sizes, bits, bits[0] * sum(sizes)).bits == [bits[0]] * 12


def test_a_budget_below_the_smallest_plan():
    with pytest.raises(LampQError, match=r"budget of 1\.5 bits .* smallest achievable average, 2; add a smaller"):
        solved(solve_dynamic_program, np.ones((2, 3)), [3, 1], [2, 3, 4], 6)


def test_malformed_instances():
    for costs, sizes, bits, message in [
        (np.ones((2, 2)), [1, 1, 1], [2, 3], "one row for each of 3 layers"),
        (np.ones((2, 2)), [1, 1], [2, 2], "distinct"),
        (np.ones((2, 2)), [1, 0], [2, 3], "layer 1 has no parameters"),
        (np.array([[1, 1], [math.nan, 1]]), [1, 1], [2, 3], "layer 1 is not a number"),
        (np.array([[1, 1], [math.inf, math.inf]]), [1, 1], [2, 3], "layer 1 has no allowed"),
        (np.ones((2, 2)), [[1, 2], [3, 2]], [2, 3], "layer 1 spends less with more bits"),
        (np.ones((2, 2)), [[60, 70], [50, 70]], [2, 3], "the smallest plan spends 110, over the limit of 100"),
    ]:
        with pytest.raises(LampQError, match=message):
            solved(solve_dynamic_program, costs, sizes, bits, 100)


@pytest.mark.parametrize("odd", [False, True])
def test_ninety_six_layers_and_eight_widths_take_no_time(odd):
    sizes = [c for width, blocks in ((96, 2), (192, 2), (384, 18), (768, 2)) for c in transformer_sizes(width, blocks)]
    if odd:
        sizes = [int(c) for c in np.random.default_rng(0).integers(1_000, 4_000_000, 96)]
    omega = np.exp(np.random.default_rng(5).normal(0, 1.5, 96))
    costs = omega[:, None] * 4.0 ** -np.arange(1, 9)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        allocation = solved(solve_dynamic_program, costs, sizes, range(1, 9), Fraction(7, 2) * sum(sizes))
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.3
    assert spent(allocation.bits, sizes) <= Fraction(7, 2) * sum(sizes)


def test_near_a_plan_it_is_the_best_of_those_that_differ_in_few_layers():
    """Costs of either sign, layers that may not have every width, and limits that bind or do not."""
    bound = 0
    for seed in range(12):
        generator = np.random.default_rng(seed)
        costs, sizes = generator.normal(0, 1, (6, 4)), generator.integers(1, 5, 6)
        costs[generator.random(costs.shape) < 0.1] = np.inf
        middle = [int(np.flatnonzero(np.isfinite(row))[0]) for row in costs]
        spent_there = sum(int(c) * (2 + k) for c, k in zip(sizes, middle, strict=True))
        problem = AllocationProblem.checked(costs, sizes, range(2, 6), spent_there + int(generator.integers(0, 8)))
        anywhere = problem.objective(optimal_plan(problem))
        ways = [way for way in itertools.product(range(4), repeat=6) if problem.fits(way)]
        ways = [(problem.objective(way), Near(middle, 0).distance(way)) for way in ways]
        for changes in (0, 1, 2, 4, 6):
            near = Near(middle, changes)
            choice = optimal_plan(problem, near)
            best = min(cost for cost, distance in ways if distance <= changes)
            assert problem.fits(choice) and near.distance(choice) <= changes, (seed, changes)
            assert problem.objective(choice) == pytest.approx(best, abs=1e-8), (seed, changes)
            bound += problem.objective(choice) > anywhere + 1e-9
        assert optimal_plan(problem, Near(middle, 0)) == middle
        assert optimal_plan(problem, Near(middle, 6)) == optimal_plan(problem)
    assert bound > 10
