"""What a sequential method is handed to realise one segment of a plan: the network so far, and what lies before it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lampq.calibration.observation import CHUNK
from lampq.calibration.rows import joined_operands
from lampq.models.adapter import ModelAdapter
from lampq.models.detection.pictures import Pictures
from lampq.plan.bits import Bits
from lampq.plan.sites import Site
from lampq.storage.store import Store

States = dict[str, dict[str, Tensor]]
"""State of every quantized site, by the site's name."""


@dataclass(frozen=True)
class Segment:
    """One segment of a plan, and everything that a sequential method may look at to realise it.

    Attributes:
        index: which of the adapter's segments: 0 is the stem, then the blocks, the last one is the tail.
        sites: its quantized sites and their bits, in the order of execution.
        quantized: an adapter in which all earlier segments are realised, this one and the later ones are in full
            precision. It belongs to the method: modules may be replaced freely.
        full_precision: the original; never changed.
        inputs: what the quantized network feeds this segment, ``[images, ...]``.
        full_precision_inputs: the same in the full-precision network.
        independent_states: gives states of these sites that were found on the calibration images, site by site.
        upstream_modules: gives the modules that stand for given states while later sites are realised, by their names.
        output_gradient: gives the gradient of the loss at this segment's output on the calibration images,
            ``[images, ...]``; None where the method asks for no gradients.
        store: for what has to survive an interruption inside a segment; its keys begin with `identity`.
        identity: everything that this segment's states depend on (JSON-able).
        seed: for everything random.
        full_precision_outputs: gives this segment's output in the full-precision network, ``[images, ...]``.
        full_precision_logits: gives the full-precision network's logits, ``[images, classes]``.
        full_precision_features: gives what the full-precision network's classifier reads, ``[images, channels]``
            (`ModelAdapter.features`).
        step: says that steps of work were done (`BaseQuantizer.realisation_steps` a segment), for the time left.
    """

    index: int
    sites: tuple[tuple[Site, Bits], ...]
    quantized: ModelAdapter
    full_precision: ModelAdapter
    inputs: Pictures
    full_precision_inputs: Pictures
    independent_states: Callable[[], States]
    upstream_modules: Callable[[States], dict[str, nn.Module]]
    output_gradient: Callable[[], Tensor] | None
    store: Store
    identity: dict
    seed: int
    full_precision_outputs: Callable[[], Pictures]
    full_precision_logits: Callable[[], Tensor]
    full_precision_features: Callable[[], Tensor]
    step: Callable[[int], object] = field(default=lambda count: None)

    @torch.no_grad()
    def observe(self, name: str, images: int | None = None, full_precision: bool = False) -> tuple[Tensor, ...]:
        """What reaches one of the segment's sites as `quantized` stands now.

        Args:
            name: the site's name.
            images: of how many images, the first ones; None for all.
            full_precision: what reaches it in the full-precision network instead.

        Returns:
            the operands, one tensor for a layer, two for a matmul; images (times windows) on the first axis.
        """
        adapter = self.full_precision.clone() if full_precision else self.quantized
        inputs = self.full_precision_inputs if full_precision else self.inputs
        seen: list[tuple[Tensor, ...]] = []
        hook = adapter.module(name).register_forward_pre_hook(lambda _, operands: seen.append(operands))
        try:
            for chunk in inputs[:images].split(CHUNK):
                adapter.run_segment(self.index, chunk)
        finally:
            hook.remove()
        return joined_operands(seen)

    def place(self, name: str, state: dict[str, Tensor]) -> None:
        """Put the module of a state with which its site feeds those after it into `quantized`."""
        for path, module in self.upstream_modules({name: state}).items():
            self.quantized.replace_module(path, module)
