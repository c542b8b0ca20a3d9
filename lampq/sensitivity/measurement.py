"""What a run measures where it quantizes no model in the end: an option of ``sensitivity``."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from lampq.plan.budget import Budget
from lampq.workbench import Workbench


class Measurement(ABC):
    """What is measured on D and written to a run's sensitivity.csv.

    Attributes:
        name, revision: as identities name it.
        searches: it looks at D.
        uses_budget: what it measures depends on bits of activations.
        at_a_plan: it depends on the target and the bit set too.
    """

    name: ClassVar[str]
    revision: ClassVar[int]
    searches: ClassVar[bool]
    uses_budget: ClassVar[bool]
    at_a_plan: ClassVar[bool]

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Settings that change what is measured (JSON-able)."""

    @abstractmethod
    def target(self, budget: Budget) -> tuple[float, float]:
        """Weight bits and activation bits that a row of tables names."""

    @abstractmethod
    def measure(self, workbench: Workbench, budget: Budget) -> list[dict[str, Any]]:
        """A row for each thing that was measured."""

    @abstractmethod
    def metrics(self, rows: list[dict[str, Any]], workbench: Workbench) -> dict[str, float]:
        """What a run's row says of the rows."""
