"""The plan of least total score, by any metric: HAWQ-V2, output Fisher and Mix-QViT are this over one each."""

import logging
from typing import Any

from lampq.allocation.base import Allocator
from lampq.allocation.search_space import SearchSpace, together
from lampq.allocation.solvers.ilp import solve_ilp
from lampq.parts import build
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from lampq.sensitivity.metric import Metric, metric_name, metrics, metrics_of_sites
from lampq.sensitivity.scores import Scores, at_the_target, by_text, pairs_by_text
from lampq.workbench import Workbench

log = logging.getLogger(__name__)


class LeastScore(Allocator):
    """``argmin sum_i score_i(B_i)`` within the budget, its ties and pins: an integer linear program, no plan tried.

    Its name, revision and settings are the metric's.

    Where inputs have bits of their own (``activation_rule=independent``), or operands (``allocate``), under a budget of
    bits or bytes, a program is solved for each target: the errors of weights and inputs are taken to add up. Under bit
    operations one program chooses everything, each layer's out of all pairs of weight bits and input bits.

    Args:
        metric: a metric, or the name of one.
        settings: of the metric, where it is named.
    """

    several_limits = True

    def __init__(self, metric: str | Metric, **settings: Any) -> None:
        if not isinstance(metric, Metric):
            metric = build(metrics()[metric_name("allocator.metric", metric)], "allocator", settings)
        self.metric = metric
        self.name, self.revision, self.chooses_sites = metric.name, metric.revision, metric.scores_sites
        self.scores_inputs = metric.scores_inputs or metric.scores_sites

    @property
    def labels(self) -> str:
        """Of the metric's loss, where it has one."""
        return self.metric.labels

    @property
    def only_layers(self) -> str:
        others = ", ".join(metrics_of_sites())
        return f"scores layers by metric={self.metric.name}, which scores nothing else (these do: {others})"

    def settings(self) -> dict[str, Any]:
        return self.metric.settings()

    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Score every layer at every bit-width, solve.

        Raises:
            LampQError: no plan keeps the budget, a score is not a number, or the base quantizer is not defined at a
                bit-width needed.
        """
        workbench.bank.check_bits("bit_set", *budget.candidates, *budget.input_candidates)
        if budget.beyond_layers or budget.in_pairs or (budget.independent and not self.metric.scores_inputs):
            return self._of_sites(workbench, budget)
        scores = self.metric.costs(self.metric.scores(workbench, budget))
        bits, told = self._least(SearchSpace.open(workbench, budget), scores)
        origin = {"allocator": self.name, "settings": self.settings(), **self.metric.notes(workbench)}
        input_bits = None
        if budget.independent:
            of_inputs = self.metric.costs(self.metric.input_scores(workbench, budget))
            input_bits, told_of_inputs = self._least(SearchSpace.of_inputs(workbench.layers, budget), of_inputs)
            told = {"weights": told, "inputs": told_of_inputs}
        plan = budget.plan(workbench.adapter.sites, bits, {**origin, **told}, input_bits)
        return plan.with_scores(at_the_target(scores, budget))

    def _of_sites(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Score every site at all weight bits and input bits that it may have, solve a program for each limit."""
        spaces = SearchSpace.each(workbench, budget)
        wanted: dict[str, list[Bits]] = {}
        for space in spaces:
            for name, pairs in space.options.items():
                wanted[name] = wanted.get(name, []) + pairs
        scores = self.metric.site_scores(workbench, budget, wanted)
        parts, told = [], []
        for space in spaces:
            costs = self.metric.site_costs({n: {b: scores[n][b] for b in pairs} for n, pairs in space.options.items()})
            found = space.solved(space.by_number(costs), solve_ilp)
            log.info("%s: total score of %s %.6g, by %s", self.name, space.unit, found.objective, found.solver)
            parts.append(space.pairs(found.bits))
            told.append({"limit": space.unit, "solver": found.solver, "objective": found.objective})
        chosen = together(parts)
        origin = {"allocator": self.name, "settings": self.settings(), **self.metric.notes(workbench)}
        origin |= {"programs": told, "site_scores": {name: pairs_by_text(row) for name, row in scores.items()}}
        plan = budget.plan_of(workbench.adapter.sites, chosen, origin)
        return plan.with_scores({name: scores[name][bits] for name, bits in chosen.items() if bits in scores[name]})

    def _least(self, space: SearchSpace, scores: Scores) -> tuple[dict[str, int], dict[str, Any]]:
        """Bits of each layer, by name, and what the plan tells of them."""
        found = space.solved(scores, solve_ilp)
        log.info("%s: total score %.6g, by %s", self.name, found.objective, found.solver)
        told = {"solver": found.solver, "objective": found.objective, "scores": by_text(scores)}
        return space.layer_bits(found.bits), told
