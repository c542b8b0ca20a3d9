"""LampQ in context, ours: bits changed by what a change promises in the model at the last plan, near that plan."""

import contextlib
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from lampq.allocation.base import Allocator
from lampq.allocation.lampq import LampQ
from lampq.allocation.search_space import SearchSpace
from lampq.allocation.solvers.dynamic_program import Near, optimal_plan
from lampq.allocation.solvers.quadratic_program import QuadraticProblem, solve_quadratic_program
from lampq.errors import LampQError
from lampq.parts import same, setting
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.progress import progress
from lampq.sensitivity.context import Context, layer_changes, predicted
from lampq.sensitivity.scores import at_the_target, by_text
from lampq.tasks.score import Accept, paired_change
from lampq.workbench import Workbench

log = logging.getLogger(__name__)

METRIC = Context(monotone=False)
"""Not monotone: a layer that is predicted to do worse at more bits keeps those that it has."""


@dataclass(frozen=True)
class Round:
    """One plan that was tried.

    Attributes:
        trust: how many layers (or groups where layers are tied) might change.
        changes: which did, by name: bits before and after.
        predicted: change of the mean loss on D that was expected, in nats.
        change, standard_error: what it was, paired by image.
        accuracy, loss: on D after it; no accuracy where images are not right or wrong.
        accepted: whether the plan was kept.
    """

    trust: int
    changes: dict[str, list[int]]
    predicted: float
    change: float
    standard_error: float
    accuracy: float | None
    loss: float
    accepted: bool


class LampQContext(Allocator):
    """Bits changed round by round, by what a change does to the loss where it is made.

    A layer's sensitivity in the full-precision model, or its error by itself, says little of what its bits do to the
    loss of a network in which everything else is quantized as well. So in each round the metric is measured in the
    model at the last accepted plan (`lampq.sensitivity.context`: one backward pass), and the plan of least predicted
    loss is taken out of those that keep the budget and differ from it in few layers, exactly: the prediction is good
    near the plan. The candidate is scored on D. If it is not better there, half as many layers may change.

    It ends when less than two layers may change, when nothing is predicted to help, or after `rounds`.

    Args:
        start: the first plan: ``uniform`` (equal bits: the most that keep the budget), or ``lampq_ilp`` (that of LampQ
            before its update, with `mu`, `beta` and `gamma`).
        rounds: plans that are tried after the first one, at most.
        trust: layers that one round may change, at most.
        context_images: the first so many images of D, over which changes are predicted; all where D has fewer, or None.
        cross_terms: predict what several changes do together, by a quadratic program; else their effects add up.
        maximum_nodes: nodes of that program's branch and bound, at most; 0 leaves it at a local search, None goes on
            until no better plan is left.
        accept: when a plan is better (see `lampq.tasks.score.Score.improves_on`).
        accept_factor: standard errors of the paired difference, for ``paired``.
        mu, beta, gamma: of LampQ, for ``start=lampq_ilp``.
        max_evaluations: plans scored on D after the first one, at most; None is no limit but `rounds`.
    """

    name = "lampq_context"

    start: Literal["uniform", "lampq_ilp"] = "uniform"
    rounds: int = setting(12, minimum=0)
    trust: int = setting(8, minimum=2)
    context_images: int | None = same(Context, "context_images")
    cross_terms: bool = False
    maximum_nodes: int | None = setting(0, minimum=0)
    accept: Accept = "paired"
    accept_factor: float = setting(1.0, at_least=0)
    mu: float = same(LampQ, "mu")
    beta: int = same(LampQ, "beta")
    gamma: float = same(LampQ, "gamma")
    max_evaluations: int | None = same(LampQ, "max_evaluations")

    def needed_bits(self) -> list[tuple[str, int]]:
        return [("lampq.beta", self.beta)] if self.start == "lampq_ilp" else []

    def unused(self) -> set[str]:
        unused = {"mu", "beta", "gamma"} if self.start == "uniform" else set()
        unused |= set() if self.cross_terms else {"maximum_nodes"}
        return unused | (set() if self.accept == "paired" else {"accept_factor"})

    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Start, then one round after another.

        Raises:
            LampQError: no plan keeps the budget, or the base quantizer is not defined at a bit-width needed.
        """
        workbench.bank.check_bits("bit_set", *budget.candidates)
        sites, space = workbench.adapter.sites, SearchSpace.open(workbench, budget)
        first = current = budget.plan(sites, self._first(workbench, budget, space))
        workbench.evaluator.set_base(first)
        workbench.bank.calibrate(first)
        best, trust, costs, rounds = workbench.evaluator.score(first), self.trust, None, []
        limit = self.rounds if self.max_evaluations is None else min(self.rounds, self.max_evaluations)
        bar = progress(description="in context", total=limit, unit="rounds")
        while len(rounds) < limit and trust > 1:
            changes = layer_changes(workbench, budget, current, self.context_images)
            costs = METRIC.costs({name: {b: predicted(d) for b, d in row.items()} for name, row in changes.items()})
            bits, expected = self._least(space, space.group_bits(current.layer_bits()), changes, trust)
            if expected >= 0:
                break
            candidate = budget.plan(sites, space.layer_bits(bits))
            workbench.bank.calibrate(candidate)
            score = workbench.evaluator.score(candidate, keep=True)
            better = score.improves_on(best, self.accept, self.accept_factor)
            moved = _moved(space, current, candidate)
            found = paired_change(score, best)
            rounds.append(Round(trust, moved, expected, *found, score.accuracy, score.mean_loss, better))
            _tell(len(rounds), rounds[-1])
            if better:
                current, best = candidate, score
                workbench.evaluator.set_base(current)
            else:
                trust = len(moved) // 2
            bar.update()
        bar.close()
        origin = {"allocator": self.name, "settings": self.settings(), "initial_bits": first.layer_bits()}
        origin |= {"rounds": [asdict(each) for each in rounds]}
        if costs is None:
            return budget.plan(sites, current.layer_bits(), origin)
        plan = budget.plan(sites, current.layer_bits(), {**origin, "scores": by_text(costs)})
        return plan.with_scores(at_the_target(costs, budget))

    def _first(self, workbench: Workbench, budget: Budget, space: SearchSpace) -> dict[str, int]:
        """Bits of each layer to start from, by name."""
        if self.start == "lampq_ilp":
            labels = "sampled" if workbench.task.name == "classification" else "dataset"
            lampq = LampQ(mu=self.mu, beta=self.beta, gamma=self.gamma, labels=labels, iterative_update=False)
            return lampq.allocate(workbench, budget).layer_bits()
        for bits in sorted(budget.candidates, reverse=True):
            if bits <= budget.weight_bits:
                with contextlib.suppress(LampQError):  # pins may leave less
                    return space.equal_bits(bits)
        return space.equal_bits(min(budget.candidates))

    def _least(
        self, space: SearchSpace, here: Mapping[str, int], changes: Mapping[str, Mapping[int, Tensor]], trust: int
    ) -> tuple[list[int], float]:
        """Bits of each group in the plan of least predicted loss that differs in few groups, and what is predicted.

        Args:
            here: bits of each group now, by name.
            changes: d_n of each layer at each bit-width.
        """
        images = len(next(iter(next(iter(changes.values())).values())))
        moves = np.zeros((len(space.groups), len(space.bits), images))
        costs = np.full(moves.shape[:2], math.inf)
        for row, group in enumerate(space.groups):
            for bits in group.bits:
                column = space.bits.index(bits)
                if not group.pinned:
                    moves[row, column] = sum(changes[layer.name][bits].numpy() for layer in group.layers)
                costs[row, column] = moves[row, column].mean() + np.square(moves[row, column]).mean() / 2
        problem = space.problem(costs)
        near = Near([space.bits.index(here[group.name]) for group in space.groups], trust)
        if not self.cross_terms:
            choice = optimal_plan(problem, near)
            return problem.bits_of(choice), problem.objective(choice)
        rows = moves.reshape(-1, images)
        interactions = (rows @ rows.T / (2 * images)).reshape(*costs.shape, *costs.shape)
        together = QuadraticProblem.checked(problem, (interactions + interactions.transpose(2, 3, 0, 1)) / 2, near)
        choice = solve_quadratic_program(together, self.maximum_nodes).choice
        return problem.bits_of(choice), together.objective(choice)


def _moved(space: SearchSpace, before: BitPlan, after: BitPlan) -> dict[str, list[int]]:
    """The groups whose bits differ, by name: bits before and after."""
    old, new = (space.group_bits(plan.layer_bits()) for plan in (before, after))
    return {name: [bits, new[name]] for name, bits in old.items() if bits != new[name]}


def _tell(number: int, done: Round) -> None:
    told = f"predicted {done.predicted:+.4f}, measured {done.change:+.4f} ± {done.standard_error:.4f} nats"
    verdict = "accepted" if done.accepted else "not accepted"
    log.info("round %d: %d of at most %d changes, %s: %s", number, len(done.changes), done.trust, told, verdict)
