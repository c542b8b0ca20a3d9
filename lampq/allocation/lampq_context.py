"""LampQ in context, ours: bits changed by what a change promises in the model at the last plan, near that plan."""

import logging
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from lampq.allocation.base import Allocator
from lampq.allocation.foretold_changes import ByGradient, ByMeasurement, ForetoldChanges
from lampq.allocation.lampq import LampQ
from lampq.allocation.search_space import SearchSpace, equal_number, most_of
from lampq.allocation.solvers.dynamic_program import Near, optimal_plan
from lampq.allocation.solvers.quadratic_program import QuadraticProblem, solve_quadratic_program
from lampq.allocation.trust_region import TrustRegion
from lampq.parts import same, setting
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.plan.groups import names
from lampq.progress import progress
from lampq.sensitivity.context import Context
from lampq.sensitivity.scores import at_the_target, by_text
from lampq.tasks.score import Accept, paired_change
from lampq.workbench import Workbench

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Round:
    """One plan that was tried.

    Attributes:
        trust: how many layers (or groups where layers are tied) might change.
        changes: which did, by name: bits before and after; pairs of weight bits and input bits as text, ``W3A4``.
        predicted: change of the mean loss on D by the metric in context, in nats.
        expected: the same with what plans that were refused before have taught.
        change, standard_error: what it was, paired by image.
        accuracy, loss: on D after it; no accuracy where images are not right or wrong.
        accepted: whether the plan was kept.
    """

    trust: int
    changes: dict[str, list[int | str]]
    predicted: float
    expected: float
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
    near the plan. The candidate is scored on D. If it is not better there, half as many layers may change (at least
    two), and what it was worse than expected is laid, in equal parts, on its changes, so that others are tried next.
    After a plan that is better twice as many may change again, up to `trust`.

    It ends when nothing is expected to help that was not tried, or after `rounds`.

    At few bits a gradient foretells too much. With `changes` ``measured`` every layer (or group) is scored on D with
    one bit more and one bit less instead, at the first plan: 8N plans, from the changed block on; where weight bits and
    input bits are chosen in pairs, with every pair in which each is one more, one less or the same. Later rounds choose
    among these changes, which are taken to hold at later plans too, and to add up: products of changes by image, as
    `cross_terms` has them, foretell less (on DeiT-T at 3 bits they promise 0.3 to 0.8 nats more than comes). When that
    leads no further, they are measured again at the last accepted plan, up to `measurements` times in all.

    Args:
        start: the first plan: ``uniform`` (equal bits: the most that keep the budget), or ``lampq_ilp`` (that of LampQ
            before its update, with `mu`, `beta` and `gamma`).
        rounds: plans that are tried after the first one, at most.
        trust: layers that one round may change, at most.
        changes: where predictions come from: ``gradient`` (one backward pass a round) or ``measured`` (see above).
        measurements: how often they are measured at most.
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
    chooses_sites = scores_inputs = True

    start: Literal["uniform", "lampq_ilp"] = "uniform"
    rounds: int = setting(12, minimum=0)
    trust: int = setting(8, minimum=2)
    changes: Literal["gradient", "measured"] = setting("gradient", identity="changed")
    measurements: int = setting(1, minimum=1, identity="changed")
    context_images: int | None = same(Context, "context_images")
    cross_terms: bool = True
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
        unused |= {"cross_terms"} if self.changes == "measured" else {"measurements"}
        unused |= set() if self.cross_terms and self.changes == "gradient" else {"maximum_nodes"}
        return unused | (set() if self.accept == "paired" else {"accept_factor"})

    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Start, then one round after another.

        Raises:
            LampQError: no plan keeps the budget, or the base quantizer is not defined at a bit-width needed.
        """
        workbench.bank.check_bits("bit_set", *budget.candidates)
        space, evaluator = SearchSpace.open(workbench, budget), workbench.evaluator

        def plan_of(bits: list[int], origin: dict | None = None) -> BitPlan:
            return budget.plan_of(workbench.adapter.sites, space.pairs(bits), origin)

        bits = self._first(workbench, budget, space)
        first = current = plan_of(bits)
        evaluator.set_base(first)
        workbench.bank.calibrate(first)
        best, center, rounds, refused = evaluator.score(first), None, [], False
        foretold = self._foretold(workbench, budget, space)
        region = TrustRegion(self.trust, (len(space.groups), len(space.bits)))
        limit = self.rounds if self.max_evaluations is None else min(self.rounds, self.max_evaluations)
        bar = progress(description="in context", total=limit, unit="rounds")
        while len(rounds) < limit:
            center = current
            if refused and foretold.renewed(current, bits):
                region.reset()
            chosen, expected = self._least(space, bits, foretold, current, region)
            if expected >= 0:
                if not foretold.renewed(current, bits):
                    break
                region.reset()
                continue
            candidate = plan_of(chosen)
            if region.has_refused(candidate):  # no other is expected to help more
                break
            workbench.bank.calibrate(candidate)
            score = evaluator.score(candidate, keep=True)
            better = score.improves_on(best, self.accept, self.accept_factor)
            places = [(row, space.bits.index(b)) for row, b in enumerate(chosen) if b != bits[row]]
            alone = expected - sum(region.surprise[place] for place in places)
            found, moved = paired_change(score, best), _moved(space, bits, chosen)
            after = score.accuracy, score.mean_loss
            rounds.append(Round(region.trust, moved, alone, expected, *found, *after, better))
            _tell(len(rounds), rounds[-1])
            if better:
                current, bits, best = candidate, chosen, score
                region.grow()
                evaluator.set_base(current)
            else:
                region.shrink(candidate, places, found[0] - expected)
            refused = not better
            bar.update()
        bar.close()
        origin = {"allocator": self.name, "settings": self.settings(), "initial_bits": first.layer_bits()}
        plan = plan_of(bits, origin | {"rounds": [asdict(each) for each in rounds]})
        if isinstance(foretold, ByMeasurement):
            return foretold.told(plan)
        if center is None or budget.beyond_layers or budget.in_pairs:
            return plan
        metric = Context(monotone=False, context_images=self.context_images)
        costs = metric.costs(metric.scores(workbench, budget, center))  # all of it is stored
        plan.origin["scores"] = by_text(costs)
        return plan.with_scores(at_the_target(costs, budget))

    def _foretold(self, workbench: Workbench, budget: Budget, space: SearchSpace) -> ForetoldChanges:
        """What says what a change does."""
        if self.changes == "gradient":
            return ByGradient(workbench, budget, space, self.context_images)
        return ByMeasurement(workbench, budget, space, self.context_images, self.measurements)

    def _first(self, workbench: Workbench, budget: Budget, space: SearchSpace) -> list[int]:
        """Bits of each group to start from."""
        if self.start == "lampq_ilp":
            labels = "sampled" if workbench.task.name == "classification" else "dataset"
            lampq = LampQ(mu=self.mu, beta=self.beta, gamma=self.gamma, labels=labels, iterative_update=False)
            rule = "fixed" if budget.independent else budget.activation_rule
            pins = tuple((word, bits) for word, bits in budget.pins if any(names(word, s) for s in workbench.layers))
            plan = lampq.allocate(workbench, replace(budget, allocate="layers", activation_rule=rule, pins=pins))
            bits = [most_of(group, plan[group.layers[0].name].bits) for group in space.groups]
            if space.fits(bits):
                return bits
            log.warning(
                "start=lampq_ilp: LampQ's plan spends more than this budget, whose inputs or pins count otherwise; "
                "the start is equal bits"
            )
        for target in sorted(budget.candidates, reverse=True):
            if target <= budget.weight_bits:
                bits = [equal_number(group, target, budget) for group in space.groups]
                if space.fits(bits):  # pins may leave less
                    return bits
        return [group.bits[0] for group in space.groups]

    def _least(
        self, space: SearchSpace, bits: list[int], foretold: ForetoldChanges, current: BitPlan, region: TrustRegion
    ) -> tuple[list[int], float]:
        """Bits of each group in the plan of least expected loss in the trust region, and what is expected of it.

        Args:
            bits: of each group now.
            current: the plan of these.
        """
        changes = foretold.at(current, bits)
        allowed = np.array([[b in group.spending for b in space.bits] for group in space.groups])
        allowed &= ~np.isnan(changes).any(2)
        changes = np.nan_to_num(changes)
        alone = changes.mean(2) + (np.square(changes).mean(2) / 2 if foretold.second_order else 0)
        costs = np.where(allowed, alone + region.surprise, np.inf)
        problem, near = space.problem(costs), Near([space.bits.index(b) for b in bits], region.trust)
        if not self.cross_terms or not foretold.second_order:
            choice = optimal_plan(problem, near)
            return problem.bits_of(choice), problem.objective(choice)
        rows = changes.reshape(-1, changes.shape[2])
        interactions = (rows @ rows.T / (2 * rows.shape[1])).reshape(*costs.shape, *costs.shape)
        together = QuadraticProblem.checked(problem, (interactions + interactions.transpose(2, 3, 0, 1)) / 2, near)
        choice = solve_quadratic_program(together, self.maximum_nodes).choice
        return problem.bits_of(choice), together.objective(choice)


def _moved(space: SearchSpace, before: list[int], after: list[int]) -> dict[str, list[int | str]]:
    """The groups whose bits differ, by name: bits before and after."""
    rows = zip(space.groups, before, after, strict=True)
    return {group.name: [group.told(old), group.told(new)] for group, old, new in rows if old != new}


def _tell(number: int, done: Round) -> None:
    told = f"expected {done.expected:+.4f}, measured {done.change:+.4f} ± {done.standard_error:.4f} nats"
    verdict = "accepted" if done.accepted else "not accepted"
    log.info("round %d: %d of at most %d changes, %s: %s", number, len(done.changes), done.trust, told, verdict)
