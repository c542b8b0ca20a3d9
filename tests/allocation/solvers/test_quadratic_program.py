"""Quadratic programs: the best of all plans, a bound that holds, and nothing worse than the start."""

import itertools
import math

import numpy as np
import pytest

import lampq.allocation.solvers.quadratic_program as quadratic_program
from lampq.allocation.solvers.allocation_problem import AllocationProblem
from lampq.allocation.solvers.dynamic_program import Near, optimal_plan
from lampq.allocation.solvers.quadratic_program import (
    QuadraticProblem,
    local_search,
    positive_semidefinite,
    solve_quadratic_program,
)


def random_matrix(seed, layers, bits, strength=1.0):
    """Falling losses on the diagonal, cross terms of either sign outside it ``[layers, bits, layers, bits]``."""
    rng = np.random.default_rng(seed)
    losses = np.exp(rng.normal(0, 1, (layers, 1))) * 4.0 ** -np.arange(bits)
    matrix = strength * rng.normal(0, 1, (layers, bits, layers, bits)) * np.sqrt(np.multiply.outer(losses, losses))
    matrix = (matrix + matrix.transpose(2, 3, 0, 1)) / 2
    matrix[np.arange(layers), :, np.arange(layers), :] = 0
    return matrix, losses


def problem_of(seed, layers=5, bits=3, strength=1.0, forbidden=()):
    matrix, losses = random_matrix(seed, layers, bits, strength)
    costs = 2 * losses
    for entry in forbidden:
        costs[entry] = np.inf
    sizes = [3, 1, 4, 4, 2, 5, 1, 3, 4, 4, 2, 2][:layers]
    linear = AllocationProblem.checked(costs, sizes, range(2, 2 + bits), 3 * sum(sizes))
    return QuadraticProblem.checked(linear, matrix)


def brute_force(problem):
    ways = itertools.product(range(len(problem.linear.bits)), repeat=len(problem.linear.costs))
    feasible = (w for w in ways if problem.linear.fits(w) and math.isfinite(problem.linear.objective(w)))
    return min((problem.objective(way), way) for way in feasible)


def test_the_objective_counts_each_pair_twice():
    problem = problem_of(0)
    choice = [2, 0, 1, 1, 2]
    by_hand = sum(problem.linear.costs[i, k] for i, k in enumerate(choice))
    by_hand += 2 * sum(problem.interactions[i, choice[i], j, choice[j]] for i, j in itertools.combinations(range(5), 2))
    assert problem.objective(choice) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("strength", [0.1, 1.0, 3.0])
def test_the_answer_is_the_best_of_all_plans(strength):
    for seed in range(6):
        problem = problem_of(seed, strength=strength)
        best, way = brute_force(problem)
        found = solve_quadratic_program(problem, None)
        assert found.finished and problem.linear.fits(found.choice), seed
        assert (
            found.objective == pytest.approx(best, rel=1e-7) and problem.objective(found.choice) == found.objective
        ), seed
        assert tuple(found.choice) == way, seed
        assert found.lower_bound == found.objective and found.gap == 0, seed


@pytest.mark.parametrize("seed", [2, 4])
def test_the_solver_improves_on_the_local_search_and_that_on_the_linear_costs(seed):
    problem = problem_of(seed, layers=12, strength=3.0)
    linear = optimal_plan(problem.linear)
    costs = [solve_quadratic_program(problem, None).objective]
    costs += [problem.objective(choice) for choice in (local_search(problem, linear), linear)]
    assert costs[0] < costs[1] - 1e-6 and costs[1] < costs[2] - 1e-6


def test_the_local_search_ends_where_no_change_of_two_layers_helps():
    for seed in range(4):
        problem = problem_of(seed, layers=6, strength=2.0)
        end = local_search(problem, optimal_plan(problem.linear))
        assert problem.linear.fits(end), seed
        for (i, j), (a, b) in itertools.product(
            itertools.combinations(range(6), 2), itertools.product(range(3), repeat=2)
        ):
            other = [*end]
            other[i], other[j] = a, b
            assert not problem.linear.fits(other) or problem.objective(other) >= problem.objective(end) - 1e-9, seed


def test_without_interactions_it_is_the_linear_program():
    problem = problem_of(3, layers=12, strength=0.0)
    assert solve_quadratic_program(problem, None).choice == optimal_plan(problem.linear)
    nearly = problem_of(3, layers=12, strength=1e-7)
    found = solve_quadratic_program(nearly, None)
    assert found.choice == optimal_plan(problem.linear) and "CBC" in found.solver


def test_bits_that_are_forbidden_are_not_chosen():
    free, bound = problem_of(1), problem_of(1, forbidden=[(0, 0), (2, 1), (2, 2)])
    found = solve_quadratic_program(bound, None)
    assert found.choice[0] != 0 and found.choice[2] == 0
    assert found.objective == pytest.approx(brute_force(bound)[0], rel=1e-7)
    assert found.choice != solve_quadratic_program(free, None).choice


def test_few_nodes_are_said_and_the_bound_holds():
    problem = problem_of(1, layers=12, strength=3.0)
    full, short = solve_quadratic_program(problem, None), solve_quadratic_program(problem, 1)
    assert full.finished and "stopped" not in full.solver
    assert not short.finished and short.solver == "CBC, stopped at maximum_nodes=1"
    assert short.lower_bound <= full.objective <= short.objective and 0 < short.gap < math.inf
    assert solve_quadratic_program(problem, 1) == short, "the limit is no matter of time"


def test_never_worse_than_where_it_starts(monkeypatch):
    problem = problem_of(5, layers=9, strength=3.0)
    start = local_search(problem, optimal_plan(problem.linear))
    worst = optimal_plan(AllocationProblem.checked(-problem.linear.costs, [1] * 9, range(2, 5), 27))
    monkeypatch.setattr(quadratic_program, "local_search", lambda problem, choice: start if choice != worst else worst)
    monkeypatch.setattr(quadratic_program, "_branch_and_bound", lambda *_: (worst, -5.0, False))
    assert solve_quadratic_program(problem, 7).choice == start
    monkeypatch.setattr(quadratic_program, "_branch_and_bound", lambda *_: None)
    alone = solve_quadratic_program(problem, 7)
    assert alone.choice == start and "there is no CBC" in alone.solver
    assert (alone.lower_bound, alone.gap) == (-math.inf, math.inf)


@pytest.mark.parametrize("seed", range(4))
def test_a_matrix_without_negative_eigenvalues_costs_no_less(seed):
    matrix, losses = random_matrix(seed, 4, 3, strength=2.0)
    matrix = matrix.reshape(12, 12) + np.diag(2 * losses.ravel())
    clipped, count = positive_semidefinite(matrix)
    assert count == (np.linalg.eigvalsh(matrix) < 0).sum() > 0
    assert np.linalg.eigvalsh(clipped)[0] > -1e-12 and (clipped == clipped.T).all()
    for x in np.random.default_rng(seed).normal(0, 1, (50, 12)):
        assert x @ clipped @ x >= x @ matrix @ x - 1e-12
    kept, none = positive_semidefinite(clipped)
    assert none == 0 and np.allclose(kept, clipped, atol=1e-12)


def test_a_diagonal_stays_diagonal():
    clipped, count = positive_semidefinite(np.diag([3.0, -1.0, 0.0, 2.0]))
    assert count == 1 and (clipped == np.diag([3.0, 0.0, 0.0, 2.0])).all()


def test_what_is_no_quadratic_program():
    problem = problem_of(0)
    with pytest.raises(ValueError, match="shape"):
        QuadraticProblem.checked(problem.linear, np.zeros((5, 3, 5, 2)))
    broken = problem.interactions.copy()
    broken[0, 0, 1, 1] += 1
    with pytest.raises(ValueError, match="symmetric"):
        QuadraticProblem.checked(problem.linear, broken)
    assert QuadraticProblem.checked(problem.linear, problem.interactions).digest() == problem.digest()
    assert problem_of(1).digest() != problem.digest()


@pytest.mark.parametrize("maximum_nodes", [None, 0])
def test_near_a_plan_it_differs_in_few_layers(maximum_nodes):
    found_best = 0
    for seed in range(6):
        problem = problem_of(seed, strength=2.0)
        near = Near([1] * 5, 2)
        bound = QuadraticProblem.checked(problem.linear, problem.interactions, near)
        found = solve_quadratic_program(bound, maximum_nodes)
        ways = (w for w in itertools.product(range(3), repeat=5) if problem.linear.fits(w) and near.distance(w) <= 2)
        best = min(problem.objective(way) for way in ways)
        assert near.distance(found.choice) <= 2 and problem.linear.fits(found.choice), seed
        assert bound.digest() != problem.digest()
        found_best += found.objective == pytest.approx(best, rel=1e-7)
        if maximum_nodes == 0:
            assert found.solver == "local search" and not found.finished
    assert found_best == 6 if maximum_nodes is None else found_best >= 3
