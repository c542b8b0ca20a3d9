"""Plans put together from trained blocks: what searches with a sequential base quantizer may score them with.

Between the two ways that there are, layers by themselves (which says little of a method that trains blocks) and every
plan realised (which takes as long as training the network for each), this is ours: a block is realised once for each
bit-width that a search meets in it, all of its layers at that bit-width, behind a network with equal bits at the
target. A plan takes every layer from its block at the layer's bits. The first plan takes about as long as realising it
and each further bit-width that it has; a swap of two layers then mostly finds its blocks there.
"""

from torch import nn

from lampq.bank.realisation import Realisation, States
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.plan.sites import Site


class BlockBank:
    """Modules of whole plans from blocks at equal bits.

    Args:
        realisation: realises and keeps the blocks.
        budget: its targets, rounded down, are the bits of everything before a block.

    Attributes:
        identity: everything that a plan's modules depend on beside the plan (JSON-able).
    """

    def __init__(self, realisation: Realisation, budget: Budget) -> None:
        self._realisation = realisation
        bits = int(budget.weight_bits)
        sites = realisation.adapter.sites
        self._reference = budget.unbound().plan(sites, {site.name: bits for site in sites if site.allocated})
        self.identity = {**realisation.identity, "block_bank": self._reference.key()}
        self._modules: dict[tuple, dict[str, nn.Module]] = {}

    def modules(self, plan: BitPlan) -> dict[str, nn.Module]:
        """Every module in which the model of a plan differs from the full-precision one, by its name.

        Raises:
            LampQError: the method is not defined at some bits of the plan.
        """
        whole, made = self._realisation, {}
        for index in range(whole.adapter.segments):
            key = index, tuple((site.name, *bits) for site, bits in whole.sites(plan, index))
            made[key] = self._modules.get(key) or whole.modules_of(plan, index, self._states(plan, index))
        self._modules = made
        return {name: module for part in made.values() for name, module in part.items()}

    def site_module(self, plan: BitPlan, site: Site) -> nn.Module:
        """The module that a site has in the network of a plan, from its block."""
        index = self._realisation.adapter.segment_of(site)
        return self._realisation.modules_of(plan, index, self._states(plan, index))[site.name]

    def _states(self, plan: BitPlan, index: int) -> States:
        """States of a segment at a plan's bits. What is not allocated is taken from where the first layer is."""
        adapter = self._realisation.adapter
        planned = {s.name: plan[s.name].bits for s in adapter.sites if adapter.segment_of(s) == index}
        quantized = [name for name, bits in planned.items() if bits.quantized]
        layer_bits = {name: planned[name] for name in quantized if plan[name].allocated}
        found: dict[tuple | None, States] = {}
        for bits in dict.fromkeys(layer_bits.values()) or [None]:
            # Before the segment the reference; in it all layers that have bits at these; after it, nothing is asked.
            variant = self._reference.with_bits(planned | dict.fromkeys(layer_bits, bits))
            found[bits] = self._realisation.parts(variant, index + 1)[index]
        first = next(iter(found))
        return {name: found[layer_bits.get(name, first)][name] for name in quantized}
