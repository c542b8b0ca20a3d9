"""The greedy solver: within the budget, never better than the optimum, and optimal where greed is."""

import numpy as np
import pytest

from lampq.allocation.solvers.dynamic_program import solve_dynamic_program
from lampq.allocation.solvers.greedy_ascent import solve_greedy
from lampq.errors import LampQError
from tests.allocation.solvers.instances import solved

BITS = (2, 3, 4, 5)


@pytest.mark.parametrize("seed", range(8))
def test_it_keeps_the_budget_and_tells_how_far_it_is_from_the_optimum(seed):
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 5, size=9).tolist()
    costs = np.sort(draw.random((9, 4)), axis=1)[:, ::-1].copy()
    budget = 3 * sum(sizes)
    exact, greedy = (solved(solve, costs, sizes, BITS, budget) for solve in (solve_dynamic_program, solve_greedy))
    assert sum(c * b for c, b in zip(sizes, greedy.bits, strict=True)) <= budget
    assert greedy.objective == pytest.approx(sum(costs[i, b - 2] for i, b in enumerate(greedy.bits)))
    assert greedy.objective >= exact.objective * (1 - 1e-9)
    assert greedy.gap == pytest.approx(max(0, greedy.objective / exact.objective - 1), abs=1e-9)


def test_it_is_not_always_optimal():
    """The step that saves most a unit leaves room that nothing fits."""
    costs = np.array([[10.0, 0.0], [12.0, 0.0]])
    sizes, bits, budget = [3, 4], (1, 2), 7 + 3
    assert solved(solve_dynamic_program, costs, sizes, bits, budget).objective == 12
    costs = np.array([[5.0, 0.0], [9.0, 0.0]])
    sizes, budget = [1, 2], 3 + 2
    greedy, exact = (solved(solve, costs, sizes, bits, budget) for solve in (solve_greedy, solve_dynamic_program))
    assert (exact.objective, greedy.objective, greedy.gap) == (5.0, 9.0, pytest.approx(0.8))
    assert "greedy ascent (80.00% above the optimum)" in greedy.solver


def test_with_equal_layers_and_convex_costs_it_is_the_optimum():
    omega = np.array([5.0, 1.0, 3.0, 0.2, 8.0])
    costs = omega[:, None] * 4.0 ** -np.array(BITS)
    greedy, exact = (solved(solve, costs, [7] * 5, BITS, 3 * 35) for solve in (solve_greedy, solve_dynamic_program))
    assert greedy.objective == pytest.approx(exact.objective) and greedy.gap == pytest.approx(0, abs=1e-9)


def test_a_budget_below_the_smallest_plan_is_one_line():
    with pytest.raises(LampQError, match="smallest"):
        solved(solve_greedy, np.ones((2, 2)), [1, 1], (3, 4), 5)
