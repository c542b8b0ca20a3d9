"""The best plans, against every plan there is."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from lampq.allocation.solvers import k_best
from lampq.allocation.solvers.allocation_problem import AllocationProblem
from lampq.allocation.solvers.dynamic_program import optimal_plan
from lampq.allocation.solvers.k_best import k_best_plans


def problem(seed, layers=5, bits=(2, 3, 4), target=Fraction(3)):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 5, layers).tolist()
    costs = np.sort(generator.random((layers, len(bits))), axis=1)[:, ::-1] * generator.random((layers, 1))
    return AllocationProblem.checked(costs, sizes, bits, int(target * sum(sizes)))


def every_plan(instance):
    layers, columns = instance.costs.shape
    fitting = [plan for plan in itertools.product(range(columns), repeat=layers) if instance.fits(plan)]
    return sorted(fitting, key=instance.objective)


@pytest.mark.parametrize("count", [1, 7, 40])
def test_they_are_the_best_of_all_in_order(count):
    for seed in range(8):
        instance = problem(seed)
        expected = [instance.objective(plan) for plan in every_plan(instance)[:count]]
        found = k_best_plans(instance, count)
        assert [instance.objective(plan) for plan in found] == pytest.approx(expected, rel=1e-12), seed
        assert all(instance.fits(plan) for plan in found), seed
        assert len({tuple(plan) for plan in found}) == len(found), seed


def test_where_there_are_fewer_all_are_given():
    instance = problem(1, layers=3)
    assert sorted(map(tuple, k_best_plans(instance, 1000))) == sorted(every_plan(instance))


@pytest.mark.parametrize("seed", range(4))
def test_they_are_the_best_where_the_first_round_is_too_narrow(seed, monkeypatch):
    """So many plans that the first round drops some, large numbers without a divisor, ties, forbidden widths."""
    monkeypatch.setattr(k_best, "TRIAL_WIDTH", 10)
    generator = np.random.default_rng(seed)
    spending = np.cumsum(generator.integers(1, 10**9, (7, 3)), axis=1)
    costs = generator.integers(0, 5, (7, 3)).astype(float) if seed % 2 else generator.random((7, 3))
    costs[generator.random(costs.shape) < 0.1] = np.inf
    costs[:, 0] = 5.0
    instance = AllocationProblem.checked(costs, spending, (2, 3, 4), int(spending[:, 1].sum()))
    expected = [plan for plan in every_plan(instance) if np.isfinite(instance.objective(plan))][:40]
    found = k_best_plans(instance, 40)
    assert [instance.objective(plan) for plan in found] == pytest.approx([instance.objective(p) for p in expected])
    assert all(instance.fits(plan) for plan in found) and len({tuple(plan) for plan in found}) == len(found) == 40


def test_the_first_is_the_exact_optimum():
    for seed in range(5):
        instance = problem(seed, layers=24, bits=(2, 3, 4, 5))
        (first,) = k_best_plans(instance, 1)
        assert instance.objective(first) == pytest.approx(instance.objective(optimal_plan(instance)), rel=1e-6), seed
