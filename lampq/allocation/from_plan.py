"""Bits from a plan file: evaluate what another run, another tool or a person has chosen."""

from pathlib import Path

from lampq.allocation.base import Allocator
from lampq.limits import text
from lampq.parts import setting
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.workbench import Workbench


def read_plan(key: str, path: str) -> BitPlan:
    """The plan of a file.

    Raises:
        LampQError: there is none.
    """
    return BitPlan.read(Path(text(key, path)).expanduser())


class FromPlan(Allocator):
    """The plan in a file, as it is: every site's bits are the file's, whatever budget, pins and ties say.

    Args:
        plan: path of a plan.json.
    """

    name = "from_plan"
    searches = False
    uses_budget = False

    plan: BitPlan = setting(check=read_plan)

    def settings(self) -> dict:
        return {"plan": self.plan.key()}

    def needed_bits(self) -> list[tuple[str, int]]:
        return [("allocator.plan", bits) for site in self.plan.sites for bits in site.bits if bits is not None]

    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """The plan of the file.

        Raises:
            LampQError: it was made for another model.
        """
        self.plan.check_fits(workbench.adapter.sites)
        return self.plan
