"""The same bits everywhere: what every published base quantizer does."""

import logging

from lampq.allocation.base import Allocator
from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.workbench import Workbench

log = logging.getLogger(__name__)


class Uniform(Allocator):
    """Every one of the 4N layers at b_t bits.

    Pins and ties do not bind it, nor a limit of bytes or bit operations, nor what else bits are chosen for: equal bits
    are what the others are compared with, and what such a limit is by default.
    """

    name = "uniform"
    searches = False

    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """The uniform plan.

        Raises:
            LampQError: b_t is not a whole number.
        """
        if budget.weight_bits.denominator != 1:
            bits = float(budget.weight_bits)
            raise LampQError(f"weight_bits={bits:g}: uniform bits must be whole; round it, or choose allocator=lampq")
        if budget.independent and budget.activation_bits.denominator != 1:
            bits = float(budget.activation_bits)
            raise LampQError(f"activation_bits={bits:g}: uniform bits must be whole; round it, or add baseline=none")
        if budget.pins or budget.ties != "none" or budget.limit is not None or budget.beyond_layers:
            log.info("uniform: equal bits everywhere, not bound by pins, ties, budget_limit and allocate")
        budget = budget.unbound()
        layer_bits = {site.name: int(budget.weight_bits) for site in workbench.layers}
        return budget.plan(workbench.adapter.sites, layer_bits, {"allocator": self.name})
