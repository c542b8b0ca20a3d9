"""Initial assignment: the paper's integer linear program (section Iterative Bit Update, Step 1)."""

import math

import numpy as np
import pulp

from lampq.allocation.solvers import cbc
from lampq.allocation.solvers.allocation_problem import AllocationProblem
from lampq.allocation.solvers.dynamic_program import TIE, Allocation, optimal_plan
from lampq.allocation.solvers.relaxation import Relaxation

SCALE = 1e6
"""The greedy plan's cost, as CBC sees it."""

# CBC calls a plan optimal when it is within these tolerances. With costs of 1e-4 or less, which gamma^-B Omega
# easily is, its defaults let it return plans many times worse than the best; scaled costs and tight tolerances do not.
CBC_OPTIONS = ["increment 1e-9", "dualT 1e-9", "primalT 1e-9", "integerT 1e-9"]


def solve_ilp(problem: AllocationProblem) -> Allocation:
    """Choose the bit-width of every layer with PuLP's CBC, and check the answer against the exact optimum.

    ``argmin sum_i Omega_i^(B_i)  s.t.  sum_i c_i B_i <= b_t sum_i c_i`` (Algorithm 1, line 11), with one binary
    variable for each layer and bit-width. CBC's plan is compared with the dynamic program's: if it is within 1e-6
    (relative) of the optimum, the two are tied and the rule of `solve_dynamic_program` says which tied plan is
    returned; if it is worse, the dynamic program's plan is returned and `Allocation.solver` says so.
    """
    choice = optimal_plan(problem)
    objective = problem.objective(choice)
    found = _cbc_plan(problem)
    if found is None:
        solver, gap = "dynamic program (CBC gave no plan)", math.inf
    else:
        difference = problem.objective(found) - objective
        gap = difference / abs(objective) if objective else (0.0 if difference <= 0 else math.inf)
        if gap < -2 * TIE:
            raise RuntimeError(f"the dynamic program's plan is worse than CBC's by {-gap:.3g} of its cost")
        gap = max(gap, 0.0)
        solver = "integer linear program (CBC)" if gap <= TIE else f"dynamic program (CBC was off by {gap:.2%})"
    return Allocation(problem.bits_of(choice), objective, solver, gap)


def _cbc_plan(problem: AllocationProblem) -> list[int] | None:
    """CBC's plan, as the column of each layer; None where CBC is not there or its answer is no plan."""
    greedy = Relaxation(problem).greedy_plan
    ceiling = float(sum(problem.excess_costs[i, k] for i, k in enumerate(greedy)))
    scale = SCALE / ceiling if ceiling else 1.0
    # Where one layer alone would cost more than the greedy plan, no optimum lies; it would only spoil the scaling.
    possible = (problem.excess_costs <= ceiling * (1 + TIE)) & (problem.units <= problem.room)
    model = pulp.LpProblem("bits", pulp.LpMinimize)
    rows = [
        {int(k): pulp.LpVariable(f"x_{i}_{k}", cat=pulp.LpBinary) for k in np.flatnonzero(possible[i])}
        for i in range(len(problem.costs))
    ]
    chosen = [(x, i, k) for i, row in enumerate(rows) for k, x in row.items()]
    model += pulp.lpSum(float(problem.excess_costs[i, k] * scale) * x for x, i, k in chosen)
    model += pulp.lpSum(int(problem.units[i, k]) * x for x, i, k in chosen) <= problem.room
    for row in rows:
        model += pulp.lpSum(row.values()) == 1
    if not cbc.solve(model, options=CBC_OPTIONS):
        return None
    if model.status != pulp.LpStatusOptimal:
        return None
    plan = [max(row, key=lambda k: row[k].value() or 0.0) for row in rows]
    return plan if problem.fits(plan) else None
