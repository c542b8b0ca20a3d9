"""CBC's plans are the exact optimum at every scale of the costs; where they are not, it is said."""

import math
from fractions import Fraction

import numpy as np
import pulp
import pytest

from lampq.allocation.solvers import cbc, ilp
from lampq.allocation.solvers.allocation_problem import AllocationProblem
from lampq.allocation.solvers.dynamic_program import solve_dynamic_program
from lampq.allocation.solvers.ilp import solve_ilp
from lampq.errors import LampQError
from tests.allocation.solvers.instances import WORKED, brute_force, random_instance, solved, spent, transformer_sizes

pytestmark = pytest.mark.filterwarnings("ignore:.*PuLP 4.0:DeprecationWarning")


@pytest.mark.parametrize(("sizes", "omega", "gamma", "bits", "average", "expected", "objective"), WORKED)
def test_worked_examples(sizes, omega, gamma, bits, average, expected, objective):
    costs = [[value * float(gamma) ** -b for b in bits] for value in omega]
    allocation = solved(solve_ilp, costs, sizes, list(bits), average * sum(sizes))
    assert allocation.bits == expected
    assert allocation.objective == pytest.approx(objective, rel=1e-12)
    assert allocation.solver == "integer linear program (CBC)"


def test_agrees_with_the_dynamic_program_at_every_scale():
    """Scales from 1 down to 1e-20, where CBC without rescaling returns plans that are many times worse."""
    for seed in range(64):
        sizes = transformer_sizes(192, 1 + seed % 12) if seed % 2 else None
        layers = len(sizes) if sizes else 5 + seed % 40
        costs, sizes, bits, budget = random_instance(seed, layers, sizes)
        costs = costs / costs.max() * 10.0 ** -(seed % 21)
        allocation = solved(solve_ilp, costs, sizes, bits, budget)
        exact = solved(solve_dynamic_program, costs, sizes, bits, budget)
        assert allocation.solver == "integer linear program (CBC)", seed
        assert allocation.gap <= 1e-6, seed
        assert allocation.bits == exact.bits, seed
        assert allocation.objective == exact.objective, seed
        assert spent(allocation.bits, sizes) <= budget, seed


def test_cbc_alone_finds_the_optimum_of_small_instances():
    for seed in range(6):
        costs, sizes, bits, budget = random_instance(seed, layers=5)
        problem = AllocationProblem.checked(costs * 1e-12, sizes, bits, budget)
        plan = ilp._cbc_plan(problem)
        assert problem.fits(plan), seed
        assert problem.objective(plan) == pytest.approx(brute_force(costs * 1e-12, sizes, bits, budget)[0], rel=1e-6), (
            seed
        )


def test_unscaled_costs_are_what_the_check_is_for(monkeypatch):
    """The very same model without the scaling: CBC calls a plan optimal that is not, and the optimum is returned."""
    monkeypatch.setattr(ilp, "SCALE", 1e-8)
    monkeypatch.setattr(ilp, "CBC_OPTIONS", [])
    sizes = transformer_sizes(192, 12)
    costs, _, bits, _ = random_instance(3, len(sizes), sizes)
    budget = Fraction(7, 2) * sum(sizes)
    allocation = solved(solve_ilp, costs, sizes, bits, budget)
    assert allocation.bits == solved(solve_dynamic_program, costs, sizes, bits, budget).bits
    assert allocation.solver.startswith("dynamic program (CBC was off by ")
    assert allocation.gap > 1e-6


def test_without_cbc_the_dynamic_program_answers(monkeypatch):
    monkeypatch.setattr(ilp.pulp.PULP_CBC_CMD, "available", lambda self: False)
    costs, sizes, bits, budget = random_instance(2, layers=6)
    allocation = solved(solve_ilp, costs, sizes, bits, budget)
    assert allocation.bits == solved(solve_dynamic_program, costs, sizes, bits, budget).bits
    assert allocation.solver == "dynamic program (CBC gave no plan)"
    assert math.isinf(allocation.gap)


BROKEN = {
    "another processor's": (b"\x7fELF\x02\x01\x01" + bytes(57), "format error"),
    "killed": (b"#!/bin/sh\nkill -9 $$\n", "status -9"),
    "another program": (b"#!/bin/sh\necho hello\n", "another program"),
    "hanging": (b"#!/bin/sh\nexec sleep 60\n", "timed out"),
    "babbling": (b"#!/bin/sh\necho CBC; for f; do echo nonsense > $f; done 2> /dev/null; exit 0\n", ""),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_with_a_broken_cbc_the_plan_is_the_same_and_one_line_says_so(tmp_path, monkeypatch, caplog, kind):
    content, told = BROKEN[kind]
    path = tmp_path / "cbc"
    path.write_bytes(content)
    path.chmod(0o755)
    monkeypatch.setattr(cbc, "SECONDS_TO_ANSWER", 0.3)
    monkeypatch.setattr(pulp.PULP_CBC_CMD, "pulp_cbc_path", str(path))
    monkeypatch.chdir(tmp_path)
    cbc._tell.cache_clear()
    costs, sizes, bits, budget = random_instance(2, layers=6)
    for _ in range(2):
        allocation = solved(solve_ilp, costs, sizes, bits, budget)
        assert allocation.bits == solved(solve_dynamic_program, costs, sizes, bits, budget).bits
        assert allocation.solver == "dynamic program (CBC gave no plan)"
    assert len(caplog.records) == 1 and told in caplog.text and "plans are found without it" in caplog.text


def test_a_better_plan_than_the_exact_one_is_an_error(monkeypatch):
    monkeypatch.setattr(ilp, "optimal_plan", lambda problem: [0] * len(problem.costs))
    costs, sizes, bits, _ = random_instance(2, layers=6)
    with pytest.raises(RuntimeError, match="worse than CBC's"):
        solved(solve_ilp, costs, sizes, bits, 3 * sum(sizes))


def test_layers_without_sensitivity_and_forbidden_widths():
    costs = np.outer([0.0, 1.0, 0.0, 5.0], 4.0 ** -np.arange(2, 6))
    costs[3, 2:] = np.inf
    allocation = solved(solve_ilp, costs, [1, 1, 1, 1], range(2, 6), 12)
    assert allocation.bits == [2, 5, 2, 3]
    assert allocation.solver == "integer linear program (CBC)"


def test_all_costs_zero():
    allocation = solved(solve_ilp, np.zeros((3, 4)), [1, 2, 3], range(2, 6), 18)
    assert allocation.bits == [5, 3, 2]  # a tie of all plans: the first layers get the most bits
    assert allocation.gap == 0


def test_infeasible():
    with pytest.raises(LampQError, match="raise bits"):
        solved(solve_ilp, np.ones((2, 2)), [1, 1], [3, 4], 5)
