"""VT-PTQ's allocation: one bit-width a module, by nuclear norms and output errors, the best of a Pareto frontier."""

import logging

from lampq.allocation.base import Allocator
from lampq.allocation.least_score import at_the_target
from lampq.allocation.search_space import SearchSpace
from lampq.allocation.solvers.k_best import k_best_plans
from lampq.limits import choice, integer, optional
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.plan.sites import MODULES
from lampq.progress import progress
from lampq.sensitivity.nuclear_norm import ERRORS, module_sensitivities
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

    def __init__(
        self,
        selection: str = "frontier",
        error: str = "output",
        candidates: int = 200,
        max_evaluations: int | None = None,
    ) -> None:
        self.selection = choice("allocator.selection", selection, ("frontier", "knapsack"))
        self.error = choice("allocator.error", error, ERRORS)
        self.candidates = integer("allocator.candidates", candidates, minimum=1)
        self.max_evaluations = optional(integer, "max_evaluations", max_evaluations, minimum=0)

    def settings(self) -> dict:
        metric = {"selection": self.selection, "error": self.error}
        if self.selection == "knapsack":
            return metric
        limited = {} if self.max_evaluations is None else {"max_evaluations": self.max_evaluations}
        return {**metric, "candidates": self.candidates, **limited}

    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Choose the bits of every module.

        Raises:
            LampQError: no plan keeps the budget, or the base quantizer is not defined at a bit-width needed.
        """
        workbench.bank.check_bits("bit_set", *budget.candidates)
        space = SearchSpace.open(workbench, budget, self.ties)
        omega = module_sensitivities(workbench, budget, self.error)
        modules = list(omega)
        of_layers = {
            s.name: omega[b, m] for b, m in modules for s in workbench.layers if s.block == b and s.type in MODULES[m]
        }
        # A module's Omega is one number: it counts once, with the first of its layers.
        first = {next(s.name for s in workbench.layers if s.block == b and s.type in MODULES[m]) for b, m in modules}
        nothing = dict.fromkeys(budget.candidates, 0.0)
        problem = space.problem(space.costs({n: row if n in first else nothing for n, row in of_layers.items()}))
        wanted = 1 if self.selection == "knapsack" else self.candidates
        if self.max_evaluations is not None:
            wanted = min(wanted, self.max_evaluations + 1)
        found = k_best_plans(problem, wanted)
        origin = {
            "allocator": self.name,
            "settings": self.settings(),
            "omega": {f"{b} {m}": {str(bits): v for bits, v in omega[b, m].items()} for b, m in modules},
        }
        plans = [budget.plan(workbench.adapter.sites, space.layer_bits(problem.bits_of(way)), origin) for way in found]
        chosen = 0
        if self.selection == "frontier":
            chosen, origin["frontier"] = self._best_on_d(workbench, plans, [problem.objective(way) for way in found])
        log.info("vt_ptq: plan %d of %d by total Omega is the best on D", chosen + 1, len(plans))
        return plans[chosen].with_scores(at_the_target(of_layers, budget))

    def _best_on_d(
        self, workbench: Workbench, plans: list[BitPlan], objectives: list[float]
    ) -> tuple[int, list[dict[str, float]]]:
        """The plan with most images of D right (then the lowest mean loss), and what was measured."""
        best, history, scores = 0, [], []
        for index, plan in enumerate(progress(plans, description="plans of the frontier on D", unit="plans")):
            workbench.bank.calibrate(plan)
            scores.append(workbench.evaluator.score(plan))
            history.append({"omega": objectives[index], "accuracy": scores[-1].accuracy, "loss": scores[-1].mean_loss})
            if scores[-1].better_than(scores[best]):
                best = index
        return best, history
