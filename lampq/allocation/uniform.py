"""The same bits everywhere: what every published base quantizer does."""

from lampq.allocation.base import Allocator, Search
from lampq.budgets import Budget
from lampq.errors import LampQError
from lampq.plan import BitPlan


class Uniform(Allocator):
    """Every one of the 4N layers at b_t bits."""

    name = "uniform"
    searches = False

    def allocate(self, search: Search, budget: Budget) -> BitPlan:
        """The uniform plan.

        Raises:
            LampQError: b_t is not a whole number.
        """
        if budget.weight_bits.denominator != 1:
            bits = float(budget.weight_bits)
            raise LampQError(f"weight_bits={bits:g}: uniform bits must be whole; round it, or choose allocator=lampq")
        layer_bits = {site.name: int(budget.weight_bits) for site in search.layers}
        return budget.plan(search.adapter.sites, layer_bits, {"allocator": self.name})
