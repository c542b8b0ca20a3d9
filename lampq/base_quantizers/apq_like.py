"""APQ-like: what can be read of APQ-ViT, whose code is not public, on top of PTQ4ViT's formats and candidates.

Ding et al., Towards Accurate Post-Training Quantization for Vision Transformer (APQ-ViT), ACM Multimedia 2022. Its
bottom-elimination blockwise calibration and its Matthew-effect preserving quantization are described in words; the
reading here is ours, so this is not APQ-ViT, and its numbers are not compared with published ones.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from lampq.base_quantizers.base import SEARCHES
from lampq.base_quantizers.ptq4vit import PTQ4ViT
from lampq.calibration.parameter_search import Searched
from lampq.calibration.segment import Segment, States
from lampq.calibration.weighted_output_error import WeightedOutputError
from lampq.limits import fraction
from lampq.number_formats.uniform import AffineQuantizer, affine_from_range, fake_quantize_affine
from lampq.parts import fixed, setting
from lampq.plan.bits import Bits
from lampq.plan.sites import Site
from lampq.quantized_modules.matmul import QuantizedMatMul

ITEMS = 4
"""Images of which a block is run at once."""


class APQLike(PTQ4ViT):
    """PTQ4ViT with asymmetric attention probabilities, and scales that are judged at the output of their block.

    Attention probabilities: uniform with one scale, from 0 on. A block starts with the independent states; its sites
    are searched one after the other, weights before inputs, all others being quantized, and what is better at the
    block's output replaces what was there. Candidates are PTQ4ViT's, the groups of an operand (heads; queries, keys and
    values) scaled alike. The error is ``sum (g (Y^ - Y))^2`` at the block's output Y, of each image over the largest
    terms alone; the block is fed by the quantized blocks before it. The patch embedding has a scale a row, found as
    PTQ4ViT finds it.

    The independent states are those that PTQ4ViT's own search finds, at each layer's output.

    Args:
        rho: fraction of the error's terms that count, the others, the smallest, being dropped.
        block_rounds: how often the sites of a block take turns.
        probabilities: ``searched``: their scale is found like any other; ``largest``: nothing is clipped, so that large
            ones keep their value, which is what the paper's words say. At 4 bits that makes 0 of all below 1/30, and
            with it nearly every attention.
        search: what plans are scored with, ``surrogate`` (independent states), ``block_bank`` or ``exact``.
        metric, labels, candidates, rounds, alpha, beta: as for PTQ4ViT.

    Raises:
        LampQError: a value out of its range.
    """

    name = "apq_like"
    revision = 2
    sequential = True
    probability_entry = "a_scale"

    literal: bool = fixed(False, identity="always")
    rho: float = setting(0.9, check=fraction, of="the error's terms")
    block_rounds: int = setting(1, minimum=1, maximum=100)
    probabilities: Literal["searched", "largest"] = "searched"
    search: str = setting("surrogate", options=SEARCHES, identity="never")

    @torch.no_grad()
    def calibrate(
        self,
        site: Site,
        layer: nn.Module,
        inputs: tuple[Tensor, ...],
        bits: Bits,
        output_gradient: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Entries as of PTQ4ViT, for pv ``a_scale`` ``[1]`` and ``a_zero_point`` (a scalar) in place of the split."""
        state = super().calibrate(site, layer, inputs, bits, output_gradient)
        return self._with_zero_point(site, inputs, state, bits.activation)

    @torch.no_grad()
    def quantized_module(self, site: Site, layer: nn.Module, state: dict[str, Tensor], bits: Bits) -> nn.Module:
        module = super().quantized_module(site, layer, state, bits)
        if site.type != "pv" or bits.activation is None:
            return module
        quantize = AffineQuantizer(state["a_scale"], state["a_zero_point"], bits.activation)
        return QuantizedMatMul(quantize, module.quantize_b)

    def searched(self, site: Site, operand: str, x: Tensor, bits: int) -> Searched:
        if site.type != "pv" or operand != "a":
            return super().searched(site, operand, x, bits)
        unclipped, zero_point = self._probability_format(x, bits)
        start = unclipped.view(1)
        tried = start[None] if self.probabilities == "largest" else self.fractions(x)[:, None] * start
        return Searched(start, tried, lambda x, scale: fake_quantize_affine(x, scale, zero_point, bits))

    @torch.no_grad()
    def realise_segment(self, segment: Segment) -> States:
        gradient = None if segment.output_gradient is None else segment.output_gradient()
        error = WeightedOutputError(segment.full_precision_outputs(), gradient, self.rho, ITEMS)
        states = segment.independent_states()
        for name, state in states.items():
            segment.place(name, state)
        for _ in range(self.block_rounds):
            before = dict(states)
            for site, bits in segment.sites:
                if site.type != "patch_embed":
                    states[site.name] = self._search_in_block(segment, error, states[site.name], site, bits)
            if all(states[name] is before[name] for name in states):
                break
        return states

    def _search_in_block(
        self, segment: Segment, error: WeightedOutputError, state: dict[str, Tensor], site: Site, bits: Bits
    ) -> dict[str, Tensor]:
        """State of a site with which the block's output is best, all its other sites as they are: the same object
        where none is better."""
        layer, inputs = segment.full_precision.module(site.name), segment.observe(site.name)
        for name, searched in self.operands(site, layer, inputs, bits).items():
            tried = torch.cat([state[name][None], searched.candidates])
            placed = None

            def output(index: int, place: slice, name: str = name, tried: Tensor = tried, state=state) -> Tensor:
                nonlocal placed
                if index != placed:
                    segment.place(site.name, {**state, name: tried[index]})
                    placed = index
                return segment.quantized.run_segment(segment.index, segment.inputs[place])

            best = error.best(len(tried), output)
            if best:
                state = {**state, name: tried[best]}
            segment.place(site.name, state)
        return state

    def _with_zero_point(
        self, site: Site, inputs: tuple[Tensor, ...], state: dict[str, Tensor], bits: int | None
    ) -> dict[str, Tensor]:
        """The state of pv with the zero point of attention probabilities; any other as it is."""
        if site.type != "pv" or bits is None:
            return state
        _, zero_point = self._probability_format(inputs[0], bits)
        return {"a_scale": state["a_scale"], "a_zero_point": zero_point, "b_scale": state["b_scale"]}

    def _probability_format(self, probabilities: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """Scale and zero point with which nothing is clipped: the largest probability has the last code. The zero point
        is the smallest one's, or, where scales are searched, that of 0."""
        scale, zero_point = affine_from_range(probabilities.amin(), probabilities.amax(), bits)
        return scale, zero_point if self.probabilities == "largest" else torch.zeros_like(zero_point)
