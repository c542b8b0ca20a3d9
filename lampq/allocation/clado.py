"""CLADO's allocation: losses of pairs of layers quantized together, and an integer quadratic program."""

import logging
import math

import numpy as np
import torch
from torch import Tensor

from lampq.allocation.base import Allocator
from lampq.allocation.search_space import SearchSpace
from lampq.allocation.solvers.quadratic_program import (
    QuadraticProblem,
    QuadraticSolution,
    positive_semidefinite,
    solve_quadratic_program,
)
from lampq.parts import setting
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.sensitivity.pairwise_loss import PAIRS, PairwiseLosses, pairwise_losses
from lampq.workbench import Workbench

log = logging.getLogger(__name__)

STRONGEST = 10
"""Pairs of layers that a plan's origin names, those whose cross terms weigh most in it."""


class Clado(Allocator):
    """Bits of least expected loss, up to second order: losses of single layers and of pairs, no gradients.

    CLADO (Deng et al., DAC 2025, "Cross-layer dependency"): the loss on D with layer i at b bits, and with layers i
    and j at b and b' bits, tells how much of the damage adds up and how much of it cancels or compounds. The matrix G
    of both (`lampq.sensitivity.pairwise_loss.PairwiseLosses.matrix`) is freed of its negative eigenvalues, and the
    plan of least ``x^T G x`` within the budget is taken.

    Scores of single layers and pairs are a measurement, not steps of a search: ``max_evaluations`` does not limit
    them, ``evaluation_images`` makes them cheap.

    Args:
        pairs: ``all``, as published; ``near``: pairs in one block or in neighbouring blocks, all others are taken to
            add up; ``diagonal``: none, which leaves a linear program over losses of single layers.
        convex: set negative eigenvalues of G to 0, as published; else G is taken as measured.
        maximum_nodes: nodes of the solver's branch and bound, at most; None goes on until no better plan is left.
    """

    name = "clado"
    chooses_sites = True

    pairs: str = setting("all", options=PAIRS)
    convex: bool = True
    maximum_nodes: int | None = setting(500, minimum=1)

    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Score single layers and pairs, solve.

        Raises:
            LampQError: no plan keeps the budget, a loss is not finite, or the base quantizer is not defined at a
                bit-width needed.
        """
        workbench.bank.check_bits("bit_set", *budget.candidates)
        space = SearchSpace.open(workbench, budget)
        losses = pairwise_losses(workbench, budget, space.groups, self.pairs)
        measured = losses.matrix()
        matrix, clipped = positive_semidefinite(measured) if self.convex else (measured, 0)
        program, as_measured = quadratic_problem(space, matrix), quadratic_problem(space, measured)
        solution = self._solve(workbench, program)
        log.info(
            "clado: %s, x'Gx %.6g, at most %.3g %% above the optimum (lower bound %.6g)",
            solution.solver,
            solution.objective,
            100 * solution.gap,
            solution.lower_bound,
        )
        names = [group.name for group in space.groups]
        bits = program.linear.bits_of(solution.choice)
        origin = {
            "allocator": self.name,
            "settings": self.settings(),
            "solver": solution.solver,
            "objective": solution.objective,
            "lower_bound": solution.lower_bound if math.isfinite(solution.lower_bound) else None,
            "gap": solution.gap if math.isfinite(solution.gap) else None,
            "optimal": solution.finished,
            "expected_loss_increase": as_measured.objective(solution.choice) / 2,
            "eigenvalues_clipped": clipped,
            "full_precision_loss": losses.full_precision,
            "loss_increases": {
                group.name: {str(b): float(loss) for b, loss in zip(group.bits, row, strict=True)}
                for group, row in zip(space.groups, losses.single, strict=True)
            },
            "pairs_measured": len(losses.pair),
            "strongest_cross_terms": [
                {"layers": [names[i], names[j]], "bits": [bits[i], bits[j]], "cross_term": term}
                for i, j, term in strongest_cross_terms(space, losses, bits)
            ],
        }
        plan = budget.plan(workbench.adapter.sites, space.layer_bits(bits), origin)
        return plan.with_scores(at_one_bit_width(space, losses, budget))

    def _solve(self, workbench: Workbench, program: QuadraticProblem) -> QuadraticSolution:
        """The solution, kept in the store: where it takes minutes, it takes them once."""
        key = {"program": program.digest(), "maximum_nodes": self.maximum_nodes, "revision": 1}

        def compute() -> dict[str, Tensor]:
            layers, pairs = len(program.linear.costs), int(program.interactions.any((1, 3)).sum()) // 2
            log.info("clado: a quadratic program over %d layers, %d pairs interact", layers, pairs)
            found = solve_quadratic_program(program, self.maximum_nodes)
            return {
                "choice": torch.tensor(found.choice),
                "values": torch.tensor([found.objective, found.lower_bound, found.finished], dtype=torch.float64),
                "solver": torch.tensor(list(found.solver.encode()), dtype=torch.uint8),
            }

        stored = workbench.store.fetch("quadratic_programs", key, compute)
        objective, bound, finished = stored["values"].tolist()
        solver = bytes(stored["solver"].tolist()).decode()
        return QuadraticSolution(stored["choice"].tolist(), objective, bound, bool(finished), solver)


def quadratic_problem(space: SearchSpace, matrix: np.ndarray) -> QuadraticProblem:
    """The program of a matrix G ``[entries, entries]``, one entry for each group of the space and each of its bits."""
    groups = [i for i, group in enumerate(space.groups) for _ in group.bits]
    columns = [space.bits.index(b) for group in space.groups for b in group.bits]
    shape = len(space.groups), len(space.bits)
    costs = np.full(shape, np.inf)
    costs[groups, columns] = np.diag(matrix)
    interactions = np.zeros((costs.size, costs.size))
    entries = np.ravel_multi_index((groups, columns), shape)
    interactions[np.ix_(entries, entries)] = matrix
    return QuadraticProblem.checked(space.problem(costs), interactions.reshape(*shape, *shape))


def strongest_cross_terms(space: SearchSpace, losses: PairwiseLosses, bits: list[int]) -> list[tuple[int, int, float]]:
    """The pairs (group, group, cross term at the plan's bits) that weigh most in a plan, the largest first."""
    rows = [group.bits.index(b) for group, b in zip(space.groups, bits, strict=True)]
    at_the_plan = [(i, j, float(terms[rows[i], rows[j]])) for (i, j), terms in losses.cross_terms().items()]
    return sorted(at_the_plan, key=lambda pair: -abs(pair[2]))[:STRONGEST]


def at_one_bit_width(space: SearchSpace, losses: PairwiseLosses, budget: Budget) -> dict[str, float]:
    """Each layer's loss increase at the target or the next bit-width that its group may have: they compare."""

    def nearest(bits: tuple[int, ...]) -> int:
        return min((b for b in bits if b >= budget.weight_bits), default=bits[-1])

    return {
        s.name: float(row[group.bits.index(nearest(group.bits))])
        for group, row in zip(space.groups, losses.single, strict=True)
        for s in group.layers
    }
