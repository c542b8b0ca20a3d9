"""A model in which every site has the bits of a plan."""

from lampq.bank.block_bank import BlockBank
from lampq.bank.layer_bank import LayerBank
from lampq.bank.realisation import Realisation
from lampq.models.adapter import ModelAdapter
from lampq.plan.bit_plan import BitPlan


class QuantizedModel:
    """The model with quantized modules put in, following one plan after another.

    The full-precision model is never touched: this one has a module tree of its own over the same tensors.

    Args:
        adapter: the full-precision model.
        bank: where quantized modules come from.
        realisation: where they come from instead, with a sequential base quantizer: modules of a whole plan, realised
            or put together from blocks. Without one, such a method is seen by its independent states.

    Attributes:
        adapter: the model at the bits of the last plan applied.
        plan: that plan; full precision at first.
    """

    def __init__(
        self, adapter: ModelAdapter, bank: LayerBank, realisation: Realisation | BlockBank | None = None
    ) -> None:
        self._original = adapter
        self.adapter = adapter.clone()
        self.plan = BitPlan.full_precision(adapter.sites)
        self._bank = bank
        self._realisation = realisation

    def apply(self, plan: BitPlan) -> "QuantizedModel":
        """Change the sites whose bits differ from the plan before, and only those."""
        plan.check_fits(self.adapter.sites)
        if self._realisation is not None:
            return self._apply_whole(plan, self._realisation)
        # All modules first: where one cannot be had, the model stays at the plan it says it has.
        modules = {
            site.name: self._bank.module(site, new.bits)
            for site, old, new in zip(self.adapter.sites, self.plan.sites, plan.sites, strict=True)
            if old.bits != new.bits
        }
        for name, module in modules.items():
            self.adapter.replace_module(name, module)
        self.plan = plan
        return self

    def _apply_whole(self, plan: BitPlan, realisation: Realisation | BlockBank) -> "QuantizedModel":
        """Put in what a sequential method makes of the whole plan."""
        if plan.key() != self.plan.key():
            modules = realisation.modules(plan)
            # From the original on: a realised plan may have changed more than sites.
            self.adapter = self._original.clone()
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
