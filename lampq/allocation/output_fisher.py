"""ModelOpt's allocation: real output errors weighed by squared gradients, and an integer linear program."""

import logging

from lampq.allocation.base import Allocator
from lampq.allocation.least_score import at_the_target, by_text, least_score_bits, least_score_plan
from lampq.allocation.search_space import SearchSpace
from lampq.limits import choice
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.sensitivity.labels import LABELS
from lampq.sensitivity.output_fisher import falling, output_fisher, weight_and_input_scores
from lampq.workbench import Workbench

log = logging.getLogger(__name__)


class OutputFisher(Allocator):
    """Bits of least total output score (`lampq.sensitivity.output_fisher`), one pass over D and no plan tried.

    As `auto_quantize` of NVIDIA's TensorRT Model Optimizer does with its gradient-based workbench, over the bit set
    instead of number formats. Its solver is given a smaller budget where it finds nothing; ours is exact and needs
    none.

    Where inputs have bits of their own (``activation_rule=independent``), weights are scored with inputs in full
    precision and inputs with weights in full precision, and two programs are solved, one for each target: the two
    errors are taken to add up.

    Args:
        labels: of the loss: the ``dataset``'s, as ModelOpt takes the user's loss, or ``sampled`` from the model.
    """

    name = "output_fisher"
    revision = 1
    scores_inputs = True

    def __init__(self, labels: str = "dataset") -> None:
        self.labels = choice("allocator.labels", labels, LABELS)

    def settings(self) -> dict:
        return {"labels": self.labels}

    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Score every layer at every bit-width, solve.

        Raises:
            LampQError: no plan keeps the budget, or the base quantizer is not defined at a bit-width of the bit set.
        """
        workbench.bank.check_bits("bit_set", *budget.candidates)
        if budget.independent:
            return self._independent(workbench, budget)
        scores = {name: falling(row) for name, row in output_fisher(workbench, budget, self.labels).items()}
        return least_score_plan(workbench, budget, scores, {"allocator": self.name, "settings": self.settings()})

    def _independent(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """The bits of weights and of inputs, each within its own target."""
        workbench.bank.check_bits("bit_set", *budget.input_candidates)
        spaces = SearchSpace.open(workbench, budget), SearchSpace.of_inputs(workbench.layers, budget)
        origin = {"allocator": self.name, "settings": self.settings()}
        chosen, of_weights = [], {}
        kinds = ("weights", "inputs")
        for kind, space, rows in zip(
            kinds, spaces, weight_and_input_scores(workbench, budget, self.labels), strict=True
        ):
            scores = {name: falling(row) for name, row in rows.items()}
            of_weights = of_weights or scores
            bits, allocation = least_score_bits(space, scores)
            log.info("%s: total score of %s %.6g, by %s", self.name, kind, allocation.objective, allocation.solver)
            solved = {"solver": allocation.solver, "objective": allocation.objective, "scores": by_text(scores)}
            origin[kind] = solved
            chosen.append(bits)
        plan = budget.plan(workbench.adapter.sites, chosen[0], origin, input_bits=chosen[1])
        return plan.with_scores(at_the_target(of_weights, budget))
