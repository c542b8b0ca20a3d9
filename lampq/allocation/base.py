"""What every allocator answers: the bits of the 4N layers, from what lies on the workbench."""

import logging
from abc import ABC, abstractmethod
from typing import ClassVar

from lampq.allocation.last_plans import best_after_short_training
from lampq.errors import LampQError
from lampq.parts import Part
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.workbench import Workbench

log = logging.getLogger(__name__)


class Allocator(Part, ABC):
    """A way to choose the bits of the 4N layers.

    Attributes:
        name: as in ``allocator=NAME``.
        revision: raised whenever the allocator's answers change.
        searches: whether the bit set and the sample set D are used at all.
        uses_budget: whether the target bits matter.
        scores_inputs: whether it can choose the bits of inputs by themselves (``activation_rule=independent``).
        chooses_sites: whether it can choose the bits of more than the 4N layers (``allocate``).
        several_limits: whether it can choose where weights, inputs and operands are limited each by themselves.
        ties: layers that always share their bits here, whatever else is tied.
        labels: of a loss whose gradients are taken; a setting of some allocators. None: by the task.
    """

    group = "allocator"
    name: ClassVar[str]
    revision: ClassVar[int] = 1
    searches: ClassVar[bool] = True
    uses_budget: ClassVar[bool] = True
    scores_inputs: ClassVar[bool] = False
    chooses_sites: ClassVar[bool] = False
    several_limits: ClassVar[bool] = False
    ties: ClassVar[str] = "none"
    labels = "dataset"

    @abstractmethod
    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Choose the bits.

        Raises:
            LampQError: the budget cannot be met.
        """

    def check_chosen(self, budget: Budget) -> None:
        """Refuse a budget that chooses more than this allocator does.

        Raises:
            LampQError: names who does.
        """
        if budget.beyond_layers and not self.chooses_sites:
            raise LampQError(
                f"allocate={budget.allocate}: allocator={self.name} {self.only_layers}; choose "
                "allocator=output_fisher, lampq, lampq_context, greedy, clado or random, or allocate=layers"
            )
        if budget.independent and not self.scores_inputs:
            raise LampQError(
                f"activation_rule=independent: allocator={self.name} does not score weights and inputs by themselves; "
                "choose allocator=output_fisher, lampq_context or random, or activation_rule=fixed or follow"
            )
        if (budget.beyond_layers or budget.independent) and budget.unit != "bops" and not self.several_limits:
            key, others = f"allocate={budget.allocate}", "operands"
            if not budget.beyond_layers:
                key, others = "activation_rule=independent", "inputs"
            raise LampQError(
                f"{key}: with budget={budget.unit} {others} have a limit of their own, and "
                f"allocator={self.name} keeps one limit only; choose budget=bops, or allocator=output_fisher"
            )

    @property
    def only_layers(self) -> str:
        """Why it chooses for the 4N layers alone, in words."""
        return "chooses the bits of the 4N layers alone"

    def needed_bits(self) -> list[tuple[str, int]]:
        """Bits at which the base quantizer is needed whatever the budget, after the key that asks for them."""
        return []

    def choose(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Choose the bits, and note what the search looked at.

        Raises:
            LampQError: the budget cannot be met.
        """
        if self.searches and (shared := workbench.sample_trained_on):
            log.warning(
                "%d of the %d images of D, on which plans are scored, are images that %s works on: give more images, "
                "or lower dataset.sample_images or base_quantizer.images",
                shared,
                workbench.task.sample_count,
                workbench.bank.base_quantizer.name,
            )
        plan = self.allocate(workbench, budget)
        if self.searches and workbench.realisation is not None and workbench.bank.base_quantizer.rank_last:
            plan = best_after_short_training(plan, workbench, budget)
        if self.searches:
            plan.origin.update(workbench.looked_at)
        return plan
