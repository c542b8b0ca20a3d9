"""What every allocator answers: the bits of the 4N layers, from what lies on the workbench."""

import logging
from abc import ABC, abstractmethod
from typing import ClassVar

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
        ties: layers that always share their bits here, whatever else is tied.
        labels: of a loss whose gradients are taken; a setting of some allocators. None: by the task.
    """

    group = "allocator"
    name: ClassVar[str]
    revision: ClassVar[int] = 1
    searches: ClassVar[bool] = True
    uses_budget: ClassVar[bool] = True
    scores_inputs: ClassVar[bool] = False
    ties: ClassVar[str] = "none"
    labels = "dataset"

    @abstractmethod
    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Choose the bits.

        Raises:
            LampQError: the budget cannot be met.
        """

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
        if self.searches:
            plan.origin.update(workbench.looked_at)
        return plan
