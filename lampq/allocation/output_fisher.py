"""ModelOpt's allocation: real output errors weighed by squared gradients, and an integer linear program."""

from lampq.allocation.base import Allocator, Search
from lampq.allocation.least_score import least_score_plan
from lampq.budgets import Budget
from lampq.limits import choice
from lampq.plan import BitPlan
from lampq.sensitivity.labels import LABELS
from lampq.sensitivity.output_fisher import falling, output_fisher


class OutputFisher(Allocator):
    """Bits of least total output score (`lampq.sensitivity.output_fisher`), one pass over D and no plan tried.

    As `auto_quantize` of NVIDIA's TensorRT Model Optimizer does with its gradient-based search, over the bit set
    instead of number formats. Its solver is given a smaller budget where it finds nothing; ours is exact and needs
    none.

    Args:
        labels: of the loss: the ``dataset``'s, as ModelOpt takes the user's loss, or ``sampled`` from the model.
    """

    name = "output_fisher"
    revision = 1

    def __init__(self, labels: str = "dataset") -> None:
        self.labels = choice("allocator.labels", labels, LABELS)

    def settings(self) -> dict:
        return {"labels": self.labels}

    def allocate(self, search: Search, budget: Budget) -> BitPlan:
        """Score every layer at every bit-width, solve.

        Raises:
            LampQError: no plan keeps the budget, or the base quantizer is not defined at a bit-width of the bit set.
        """
        search.bank.check_bits("bit_set", *budget.candidates)
        scores = {name: falling(row) for name, row in output_fisher(search, budget, self.labels).items()}
        return least_score_plan(search, budget, scores, {"allocator": self.name, "settings": self.settings()})
