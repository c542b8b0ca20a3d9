"""VT-PTQ's allocation: one bit-width a module, by nuclear norms and output errors, the best of a Pareto frontier."""

import logging
from typing import Literal

from lampq.allocation.base import Allocator
from lampq.allocation.search_space import SearchSpace
from lampq.allocation.solvers.k_best import k_best_plans
from lampq.parts import setting
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.plan.sites import module_of
from lampq.progress import progress
from lampq.sensitivity.nuclear_norm import NuclearNorm
from lampq.sensitivity.scores import at_the_target, by_text
from lampq.workbench import Workbench

log = logging.getLogger(__name__)


class VTPTQ(Allocator):
    """Module-wise mixed precision: the two layers of an MSA or MLP share their bits, whatever else is tied.

    Args:
        selection: ``frontier`` scores the plans of least total Omega on D and takes the best, as the LampQ paper says
            that VT-PTQ does ("testing hundreds of cases"); ``knapsack`` takes the plan of least total Omega.
        error: of what the error of an MSA is taken: of its ``output``, or of its attention ``map`` (the literal
            reading of the formula; see `lampq.sensitivity.nuclear_norm`).
        candidates: plans that are scored on D.
        max_evaluations: plans scored on D after the first one, at most; None is no limit beyond `candidates`.
    """

    name = "vt_ptq"
    revision = 2
    ties = "modules"

    selection: Literal["frontier", "knapsack"] = "frontier"
    error: Literal["output", "map"] = "output"
    candidates: int = setting(200, minimum=1)
    max_evaluations: int | None = setting(None, minimum=0, key="max_evaluations", identity="changed")

    def unused(self) -> set[str]:
        return {"candidates", "max_evaluations"} if self.selection == "knapsack" else set()

    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Choose the bits of every module.

        Raises:
            LampQError: no plan keeps the budget, or the base quantizer is not defined at a bit-width needed.
        """
        workbench.bank.check_bits("bit_set", *budget.candidates)
        space = SearchSpace.open(workbench, budget, self.ties)
        metric = NuclearNorm(self.error)
        omega = metric.of_modules(workbench, budget)
        problem = space.problem(space.costs(metric.scores(workbench, budget)))
        wanted = 1 if self.selection == "knapsack" else self.candidates
        if self.max_evaluations is not None:
            wanted = min(wanted, self.max_evaluations + 1)
        found = k_best_plans(problem, wanted)
        origin = {
            "allocator": self.name,
            "settings": self.settings(),
            "omega": by_text(omega),
        }
        plans = [budget.plan(workbench.adapter.sites, space.layer_bits(problem.bits_of(way)), origin) for way in found]
        chosen = 0
        if self.selection == "frontier":
            chosen, origin["frontier"] = self._best_on_d(workbench, plans, [problem.objective(way) for way in found])
        log.info("vt_ptq: plan %d of %d by total Omega is the best on D", chosen + 1, len(plans))
        of_modules = at_the_target(omega, budget)
        return plans[chosen].with_scores({s.name: of_modules[module_of(s)] for s in workbench.layers})

    def _best_on_d(
        self, workbench: Workbench, plans: list[BitPlan], objectives: list[float]
    ) -> tuple[int, list[dict[str, float]]]:
        """The plan with most images of D right (then the lowest mean loss), and what was measured."""
        best, history, scores = 0, [], []
        for index, plan in enumerate(progress(plans, description="plans of the frontier on D", unit="plans")):
            workbench.bank.calibrate(plan)
            scores.append(workbench.evaluator.score(plan))
            history.append({"omega": objectives[index], "accuracy": scores[-1].accuracy, "loss": scores[-1].mean_loss})
            if scores[-1].improves_on(scores[best]):
                best = index
        return best, history
