"""The best plans, against every plan there is."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from lampq.allocation.dynamic_program import optimal_plan
from lampq.allocation.greedy_start import AllocationProblem
from lampq.allocation.k_best import k_best_plans


def problem(seed, layers=5, bits=(2, 3, 4), target=Fraction(3)):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 5, layers).tolist()
    costs = np.sort(generator.random((layers, len(bits))), axis=1)[:, ::-1] * generator.random((layers, 1))
    return AllocationProblem.checked(costs, sizes, bits, int(target * sum(sizes)))


def every_plan(instance):
    layers, columns = instance.costs.shape
    fitting = [plan for plan in itertools.product(range(columns), repeat=layers) if instance.fits(plan)]
    return sorted(fitting, key=instance.objective)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [1, 7, 40])
def test_they_are_the_best_of_all_in_order(seed, count):
    instance = problem(seed)
    expected = [instance.objective(plan) for plan in every_plan(instance)[:count]]
    found = k_best_plans(instance, count)
    assert [instance.objective(plan) for plan in found] == pytest.approx(expected, rel=1e-12)
    assert all(instance.fits(plan) for plan in found)
    assert len({tuple(plan) for plan in found}) == len(found)


def test_where_there_are_fewer_all_are_given():
    instance = problem(1, layers=3)
    assert sorted(map(tuple, k_best_plans(instance, 1000))) == sorted(every_plan(instance))


@pytest.mark.parametrize("seed", range(5))
def test_the_first_is_the_exact_optimum(seed):
    instance = problem(seed, layers=24, bits=(2, 3, 4, 5))
    (first,) = k_best_plans(instance, 1)
    assert instance.objective(first) == pytest.approx(instance.objective(optimal_plan(instance)), rel=1e-6)
