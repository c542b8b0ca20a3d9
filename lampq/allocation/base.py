"""What an allocator gets and what it answers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from lampq.bank import LayerBank
from lampq.budgets import Budget
from lampq.layers import Site
from lampq.models.adapter import ModelAdapter
from lampq.plan import BitPlan
from lampq.realisation import Realisation
from lampq.store import Store
from lampq.tasks.sample_evaluation import SampleEvaluator
from lampq.tasks.task import Task


@dataclass(frozen=True)
class Search:
    """Everything an allocator may look at. Validation images are not among it.

    Attributes:
        adapter: the full-precision model.
        task: calibration images and the sample set D.
        bank: calibrated sites of the base quantizer.
        evaluator: scores plans on D.
        store: keeps whatever is expensive.
        seed: for everything random.
        realisation: with a sequential base quantizer, what becomes of a whole plan; else None.
    """

    adapter: ModelAdapter
    task: Task
    bank: LayerBank
    evaluator: SampleEvaluator
    store: Store
    seed: int
    realisation: Realisation | None = None

    @property
    def layers(self) -> list[Site]:
        """The 4N layers, in the order of execution."""
        return [site for site in self.adapter.sites if site.allocated]


class Allocator(ABC):
    """A way to choose the bits of the 4N layers.

    Attributes:
        name: as in ``allocator=NAME``.
        revision: raised whenever the allocator's answers change.
        searches: whether the bit set and the sample set D are used at all.
        uses_budget: whether the target bits matter.
        scores_inputs: whether it can choose the bits of inputs by themselves (``activation_rule=independent``).
        ties: layers that always share their bits here, whatever else is tied.
    """

    name: str
    revision: int = 1
    searches: bool = True
    uses_budget: bool = True
    scores_inputs: bool = False
    ties: str = "none"

    def settings(self) -> dict:
        """Settings that change the answer (JSON-able); part of a run's fingerprint."""
        return {}

    @abstractmethod
    def allocate(self, search: Search, budget: Budget) -> BitPlan:
        """Choose the bits.

        Raises:
            LampQError: the budget cannot be met.
        """
