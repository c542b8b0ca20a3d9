"""A model in which every site has the bits of a plan."""

from lampq.bank import LayerBank
from lampq.models.adapter import ModelAdapter
from lampq.plan import BitPlan


class QuantizedModel:
    """The model with quantized modules put in, following one plan after another.

    The full-precision model is never touched: this one has a module tree of its own over the same tensors.

    Args:
        adapter: the full-precision model.
        bank: where quantized modules come from.

    Attributes:
        adapter: the model at the bits of the last plan applied.
        plan: that plan; full precision at first.
    """

    def __init__(self, adapter: ModelAdapter, bank: LayerBank) -> None:
        self.adapter = adapter.clone()
        self.plan = BitPlan.full_precision(adapter.sites)
        self._bank = bank

    def apply(self, plan: BitPlan) -> "QuantizedModel":
        """Change the sites whose bits differ from the plan before, and only those."""
        plan.check_fits(self.adapter.sites)
        # All modules first: where one cannot be had, the model stays at the plan it says it has.
        modules = {
            site.name: self._bank.module(site, *new.bits)
            for site, old, new in zip(self.adapter.sites, self.plan.sites, plan.sites, strict=True)
            if old.bits != new.bits
        }
        for name, module in modules.items():
            self.adapter.replace_module(name, module)
        self.plan = plan
        return self

    def first_change(self, one: BitPlan, other: BitPlan) -> int:
        """The first segment in which two plans differ; the number of segments if they do not."""
        changed = [
            self.adapter.segment_of(site)
            for site, a, b in zip(self.adapter.sites, one.sites, other.sites, strict=True)
            if a.bits != b.bits
        ]
        return min(changed, default=self.adapter.segments)
