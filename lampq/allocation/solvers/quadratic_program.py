"""Integer quadratic program: bits of least total cost where what two layers cost together is not the sum of both."""

import hashlib
import logging
import math
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pulp

from lampq.allocation.solvers import cbc
from lampq.allocation.solvers.allocation_problem import AllocationProblem
from lampq.allocation.solvers.dynamic_program import Near, optimal_plan

log = logging.getLogger(__name__)

SCALE = 1e4
"""The largest coefficient, as CBC sees it; its tolerances are absolute, around 1e-7."""


@dataclass(frozen=True)
class QuadraticSolution:
    """The best plan found, and how much better another one could be.

    Attributes:
        choice: column of each layer.
        objective: its cost.
        lower_bound: no plan costs less; -inf where there was no solver to tell.
        finished: whether the solver went through all plans, so that this is the best one.
        solver: who found it, in words.
    """

    choice: list[int]
    objective: float
    lower_bound: float
    finished: bool
    solver: str

    @property
    def gap(self) -> float:
        """How far above the optimum the plan may be, as a fraction of its cost (infinite for an unknown bound)."""
        difference = max(self.objective - self.lower_bound, 0.0)
        return difference / abs(self.objective) if difference and self.objective else math.inf if difference else 0.0


@dataclass(frozen=True)
class QuadraticProblem:
    """``min x^T G x`` over plans within a budget, x being 1 at the chosen bit-width of each layer and 0 elsewhere.

    Attributes:
        linear: bit-widths, spending, budget and the diagonal of G.
        interactions: ``[layers, bits, layers, bits]`` float64, symmetric, the rest of G: each pair of layers counts
            twice. Between the bit-widths of one layer it does not matter.
        near: the trust region that the plan is in; None: all plans.
    """

    linear: AllocationProblem
    interactions: np.ndarray
    near: Near | None = None

    @classmethod
    def checked(
        cls, linear: AllocationProblem, interactions: np.ndarray, near: Near | None = None
    ) -> "QuadraticProblem":
        """Zero what does not matter.

        Raises:
            ValueError: the interactions are of another shape, not symmetric or not finite.
        """
        shape, interactions = linear.costs.shape, np.array(interactions, dtype=np.float64)
        if interactions.shape != (*shape, *shape):
            raise ValueError(f"interactions have the shape {interactions.shape}, not {(*shape, *shape)}")
        if not np.isfinite(interactions).all() or (interactions != interactions.transpose(2, 3, 0, 1)).any():
            raise ValueError("interactions must be finite and symmetric")
        each = np.arange(shape[0])
        interactions[each, :, each, :] = 0
        return cls(linear, interactions, near)

    def objective(self, choice: Sequence[int]) -> float:
        """``x^T G x`` of the plan that takes column ``choice[i]`` for layer i."""
        each, choice = np.arange(len(choice)), np.asarray(choice)
        pairs = self.interactions[each[:, None], choice[:, None], each[None, :], choice[None, :]]
        return math.fsum([self.linear.objective(choice), *pairs.ravel()])

    def digest(self) -> str:
        """A hash of everything that the answer depends on."""
        near = () if self.near is None else (list(self.near.choice), self.near.changes)
        digest = hashlib.sha256(repr((self.linear.bits, self.linear.room, *near)).encode())
        for array in (self.linear.costs, self.linear.units, self.interactions):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:32]


def positive_semidefinite(matrix: np.ndarray) -> tuple[np.ndarray, int]:
    """The nearest matrix without negative eigenvalues: they are set to 0, as CLADO does before it solves.

    Args:
        matrix: ``[entries, entries]``, symmetric.

    Returns:
        ``[entries, entries]``, and how many eigenvalues were below 0 by more than rounding.
    """
    values, vectors = np.linalg.eigh(matrix)
    clipped = (vectors * np.maximum(values, 0)) @ vectors.T
    rounding = len(matrix) * np.finfo(np.float64).eps * float(np.abs(values).max())
    return (clipped + clipped.T) / 2, int((values < -rounding).sum())


def solve_quadratic_program(problem: QuadraticProblem, maximum_nodes: int | None) -> QuadraticSolution:
    """Find the best plan with PuLP's CBC, from the best that a local search finds.

    The program is made linear without loss: ``y_iajb = x_ia x_jb`` for each pair of layers that interact, tied to x
    by ``sum_b y_iajb = x_ia`` and ``sum_a y_iajb = x_jb`` (reformulation-linearization, Adams & Sherali 1986). Where
    nothing interacts, nothing is left to do but the linear program, solved exactly by the dynamic program. Else CBC
    starts from the exact optimum of the linear costs, improved by `local_search`, and never returns anything worse.
    Its branch and bound is limited in nodes and not in time, so that it ends at the same plan on every machine.

    Args:
        maximum_nodes: nodes of the branch and bound, at most; None goes on until no better plan is left, 0 leaves it at
            the local search.
    """
    start = optimal_plan(problem.linear, problem.near)
    if not problem.interactions.any():
        objective = problem.objective(start)
        return QuadraticSolution(start, objective, objective, True, "dynamic program (nothing interacts)")
    start = local_search(problem, start)
    if maximum_nodes == 0:
        return QuadraticSolution(start, problem.objective(start), -math.inf, False, "local search")
    found = _branch_and_bound(problem, start, maximum_nodes)
    if found is None:
        return QuadraticSolution(start, problem.objective(start), -math.inf, False, "local search (there is no CBC)")
    choice, bound, finished = found
    choice = local_search(problem, choice)
    if problem.objective(start) <= problem.objective(choice):
        choice = start
    objective = problem.objective(choice)
    bound = objective if finished else min(bound, objective)
    solver = "integer quadratic program (CBC)" if finished else f"CBC, stopped at maximum_nodes={maximum_nodes}"
    return QuadraticSolution(choice, objective, bound, finished, solver)


def local_search(problem: QuadraticProblem, choice: Sequence[int]) -> list[int]:
    """Change the bits of one layer or of two at once, always by what lowers the cost most, until nothing does.

    Args:
        choice: a plan within the budget and the trust region: column of each layer.

    Returns:
        a plan within both that no single change and no change of two layers makes better.
    """
    choice, linear, near = np.array(choice), problem.linear, problem.near
    layers, bits = linear.costs.shape
    matrix, units = problem.interactions.reshape(layers * bits, layers * bits), linear.units.ravel()
    costs, owner = linear.costs.ravel(), np.repeat(np.arange(layers), bits)
    allowed = np.isfinite(costs) & (units <= linear.room)
    scale = np.abs(costs[allowed]).max() + np.abs(matrix).max()
    # In how many layers more a plan differs from the middle of the trust region for having an entry.
    differs = np.zeros(layers * bits, dtype=np.int64) if near is None else np.ones(layers * bits, dtype=np.int64)
    if near is not None:
        differs[np.arange(layers) * bits + np.array(near.choice)] = 0
    while True:
        now = np.arange(layers) * bits + choice
        # What each entry adds, given the other layers as they are.
        adds = costs + 2 * matrix[:, now].sum(1)
        change = np.where(allowed, adds - adds[now][owner], np.inf)
        spends = np.where(allowed, units - units[now][owner], 0)
        left = linear.room - int(units[now].sum())
        strays, more = differs - differs[now][owner], 0 if near is None else near.changes - int(differs[now].sum())
        one = np.where((spends <= left) & (strays <= more), change, np.inf)
        # Of two changes each is counted against the other layer as it was; the last terms set that right.
        current = now[owner]
        together = matrix - matrix[:, current] - matrix[current, :] + matrix[np.ix_(current, current)]
        two = change[:, None] + change[None, :] + 2 * together
        two[(owner[:, None] == owner[None, :]) | (spends[:, None] + spends[None, :] > left)] = np.inf
        two[strays[:, None] + strays[None, :] > more] = np.inf
        best_one, best_two = int(one.argmin()), int(two.argmin())
        if min(one[best_one], two.flat[best_two]) >= -1e-12 * scale:
            return choice.tolist()
        moves = [best_one] if one[best_one] <= two.flat[best_two] else divmod(best_two, len(units))
        for entry in moves:
            choice[entry // bits] = entry % bits


def _branch_and_bound(
    problem: QuadraticProblem, start: Sequence[int], maximum_nodes: int | None
) -> tuple[list[int], float, bool] | None:
    """CBC's plan, a lower bound on the cost of every plan, and whether it finished; None where CBC is not there."""
    linear, interactions, near = problem.linear, problem.interactions, problem.near
    possible = np.isfinite(linear.costs) & (linear.units <= linear.room)
    scale = SCALE / (max(np.abs(linear.costs[possible]).max(), 2 * np.abs(interactions).max()) or 1.0)

    columns = [np.flatnonzero(row).tolist() for row in possible]
    x = [{k: pulp.LpVariable(f"x_{i}_{k}", cat=pulp.LpBinary) for k in mine} for i, mine in enumerate(columns)]
    objective = [(x[i][k], float(linear.costs[i, k] * scale)) for i, mine in enumerate(columns) for k in mine]
    rows = [pulp.LpAffineExpression([(v, 1) for v in row.values()]) == 1 for row in x]
    spending = [(x[i][k], int(linear.units[i, k])) for i, mine in enumerate(columns) for k in mine]
    rows.append(pulp.LpAffineExpression(spending) <= linear.room)
    if near is not None:
        same = [(x[i][k], 1) for i, k in enumerate(near.choice)]
        rows.append(pulp.LpAffineExpression(same) >= len(columns) - near.changes)
    for i, mine in enumerate(columns):
        for k in mine:
            x[i][k].setInitialValue(int(start[i] == k))
        for j in range(i + 1, len(columns)):
            terms = interactions[i][:, j][np.ix_(mine, columns[j])]
            if not terms.any():
                continue
            y = {(a, b): pulp.LpVariable(f"y_{i}_{a}_{j}_{b}", 0, 1) for a in mine for b in columns[j]}
            for (a, b), variable in y.items():
                objective.append((variable, float(2 * interactions[i, a, j, b] * scale)))
                variable.setInitialValue(int(start[i] == a and start[j] == b))
            for a in mine:
                rows.append(pulp.LpAffineExpression([(y[a, b], 1) for b in columns[j]] + [(x[i][a], -1)]) == 0)
            for b in columns[j]:
                rows.append(pulp.LpAffineExpression([(y[a, b], 1) for a in mine] + [(x[j][b], -1)]) == 0)

    model = pulp.LpProblem("bits", pulp.LpMinimize)
    model += pulp.LpAffineExpression(objective)
    for row in rows:
        model += row
    try:
        with tempfile.TemporaryDirectory(prefix="lampq-cbc-") as folder:
            told = Path(folder) / "log"
            if not cbc.solve(model, warmStart=True, maxNodes=maximum_nodes, logPath=str(told)):
                return None
            report = told.read_text(errors="replace")
    except OSError as error:
        log.warning("CBC has no folder for its files (%s); TMPDIR names another one", error)
        return None
    plan = [max(row, key=lambda k: row[k].value() or 0.0) for row in x]
    finished = model.sol_status == pulp.LpSolutionOptimal
    bound = re.search(r"Lower bound:\s+([-+.\deE]*\d)", report)
    if model.status != pulp.LpStatusOptimal or not linear.fits(plan):
        plan, finished = list(start), False
    # The report has three digits behind the point.
    return plan, (float(bound.group(1)) - 1e-3) / scale if bound else -math.inf, finished
