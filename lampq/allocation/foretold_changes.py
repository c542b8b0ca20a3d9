"""What one change of bits is foretold to do to the loss at a search's last plan: by a gradient, or as measured."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor

from lampq.allocation.search_space import SearchSpace
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.sensitivity.context import plan_changes
from lampq.sensitivity.measured_changes import measured_changes
from lampq.workbench import Workbench


class ForetoldChanges(ABC):
    """Where a search looks up what its next changes do.

    Args:
        images: the first so many of D that changes are foretold on; None: all.

    Attributes:
        second_order: whether the square of a change comes to it (see `lampq.sensitivity.context`).
    """

    second_order: ClassVar[bool]

    def __init__(self, workbench: Workbench, budget: Budget, space: SearchSpace, images: int | None) -> None:
        self._workbench = workbench
        self._budget = budget
        self._space = space
        self._images = images

    @abstractmethod
    def at(self, plan: BitPlan, bits: Sequence[int]) -> np.ndarray:
        """d_n of each group at whatever it may have, ``[groups, bits, images]``, in nats: 0 at the bits that it has;
        NaN at those that are not to be chosen.

        Args:
            plan: the one that the changes start from.
            bits: of each group in it.
        """

    def renewed(self, plan: BitPlan, bits: Sequence[int]) -> bool:
        """Whether those that are known, which lead no further, were found anew at a plan."""
        return False

    def changed(self, bits: Sequence[int], row: int, other: int) -> BitPlan:
        """The plan in which one group has other bits."""
        pairs = self._space.pairs([*bits[:row], other, *bits[row + 1 :]])
        return self._budget.plan_of(self._workbench.adapter.sites, pairs)

    def by_place(self, found: dict[tuple[int, int], Tensor], others: float) -> np.ndarray:
        """Changes ``[groups, bits, images]``, of those by row and bits.

        Args:
            others: what stands at all other places.
        """
        space = self._space
        changes = np.full((len(space.groups), len(space.bits), len(next(iter(found.values())))), others)
        for (row, b), change in found.items():
            changes[row, space.bits.index(b)] = change.numpy()
        return changes


class ByGradient(ForetoldChanges):
    """By one backward pass in the model at each plan (`lampq.sensitivity.context`)."""

    second_order = True

    def at(self, plan: BitPlan, bits: Sequence[int]) -> np.ndarray:
        groups = enumerate(self._space.groups)
        others = {(row, b): self.changed(bits, row, b) for row, group in groups for b in group.bits}
        found = plan_changes(self._workbench, plan, others, self._images)
        return self.by_place(found, 0.0)


class ByMeasurement(ForetoldChanges):
    """As measured at a plan, for every group one step away in the bit set (`Group.next_to`), and taken to hold at later
    plans, between bits that were met there.

    Args:
        measurements: how often they are measured at most.

    Attributes:
        measured: changes as measured, ``[groups, bits, images]``, of each time.
    """

    second_order = False  # what was measured has its own in it

    def __init__(
        self, workbench: Workbench, budget: Budget, space: SearchSpace, images: int | None, measurements: int
    ) -> None:
        super().__init__(workbench, budget, space, images)
        self._most = measurements
        self._plan: BitPlan | None = None
        self.measured: list[np.ndarray] = []

    def at(self, plan: BitPlan, bits: Sequence[int]) -> np.ndarray:
        if not self.measured:
            self._measure(plan, bits)
        measured = self.measured[-1]
        return measured - measured[range(len(bits)), [self._space.bits.index(b) for b in bits], None]

    def renewed(self, plan: BitPlan, bits: Sequence[int]) -> bool:
        """Measured again: measurements are left, and the plan is another than the last time."""
        again = 0 < len(self.measured) < self._most and plan.key() != self._plan.key()
        if again:
            self._measure(plan, bits)
        return again

    def _measure(self, plan: BitPlan, bits: Sequence[int]) -> None:
        rows = list(enumerate(zip(self._space.groups, bits, strict=True)))
        others = {(row, now): plan for row, (_, now) in rows}
        others |= {(row, b): self.changed(bits, row, b) for row, (group, now) in rows for b in group.next_to(now)}
        found = measured_changes(self._workbench, plan, others, self._images)
        self._plan = plan
        self.measured.append(self.by_place(found, np.nan))

    def told(self, plan: BitPlan) -> BitPlan:
        """A plan with the measured changes in its origin."""
        if self.measured:
            plan.origin["measured"] = [self._means(measured.mean(2)) for measured in self.measured]
        return plan

    def _means(self, measured: np.ndarray) -> dict[str, dict[str, float]]:
        """Mean change of the loss by each group's name and bits."""
        space = self._space
        rows = zip(space.groups, measured.tolist(), strict=True)
        return {g.name: {str(g.told(b)): v for b, v in zip(space.bits, row, strict=True) if v == v} for g, row in rows}
