"""Observing the full-precision model once: what every site is fed on the calibration images."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lampq.calibration.rows import joined_operands, rows_of
from lampq.models.adapter import ModelAdapter
from lampq.models.detection.pictures import Images
from lampq.plan.sites import Site

CHUNK = 16
"""Images run at once; fixed, so that observations do not depend on a user's batch size."""


class Observer:
    """Inputs of every site on the calibration images, in full precision.

    Images are run only when a site is asked for, and segment by segment: the inputs of the segments reached so far are
    kept, and the operands of one segment's sites at a time. What does not fit into the memory given is run again
    instead: operands are observed for a few sites at a time, and only the inputs of the last segments are kept.

    Args:
        adapter: the full-precision model.
        images: gives the calibration images ``[images, channels, height, width]`` when they are needed first.
        memory: bytes for both together, each half; a single site's operands, the images and one segment's inputs are
            held whatever their size. None for no limit. Changes no number.
        precision: of the forward pass, and so of the operands. Those of float64, rounded, are the same with any
            kernels; those of float32 differ in last bits from one processor to another.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        images: Callable[[], Tensor | Images],
        memory: int | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        # Hooks on modules of its own: elsewhere, another thread may be calling the model's.
        self.adapter = adapter.clone() if precision == torch.float32 else adapter.converted(precision)
        self._precision = precision
        self._images = images
        self._limit = math.inf if memory is None else memory / 2
        self._states: dict[int, list[Tensor | Images]] = {}
        self._groups: dict[int, list[list[Site]]] = {}
        self._inputs: dict[str, tuple[Tensor, ...]] = {}

    def inputs(self, site: Site) -> tuple[Tensor, ...]:
        """The operands that reach a site: one tensor for a layer, two for a matmul; images on the first axis.

        Of images that differ in size, all tokens as those of one image; where the layer sees rows, rows.
        """
        if site.name not in self._inputs:
            self._inputs = {}  # before the next ones are there
            segment = self.adapter.segment_of(site)
            group = next(group for group in self._grouped(segment) if site in group)
            self._inputs = self._observe(segment, group, self.segment_inputs(segment))
        return self._inputs[site.name]

    @torch.inference_mode()
    def segment_inputs(self, segment: int) -> list[Tensor | Images]:
        """What a segment is fed, `CHUNK` images at a time."""
        if not self._states:
            chunks = self._images().split(CHUNK)
            single = self._precision == torch.float32
            self._states[0] = list(chunks) if single else [chunk.to(self._precision) for chunk in chunks]
        last = max(index for index in self._states if index <= segment)
        states = self._states[last]
        for index in range(last, segment):
            states = [self.adapter.run_segment(index, state) for state in states]
            self._states[index + 1] = states
            self._forget(index + 1)
        return states

    def _forget(self, latest: int) -> None:
        """Let go of the first segments' inputs, the images excepted, until the rest fits."""
        for index in sorted(self._states):
            kept = sum(state.nbytes for states in self._states.values() for state in states)
            if kept <= self._limit:
                return
            if index not in (0, latest):
                del self._states[index]

    def _grouped(self, segment: int) -> list[list[Site]]:
        """The sites of a segment in groups whose operands are held at once."""
        if segment not in self._groups:
            sites = [site for site in self.adapter.sites if self.adapter.segment_of(site) == segment]
            groups = [sites]
            if self._limit < math.inf:
                states = self.segment_inputs(segment)
                images, groups, held = sum(len(state) for state in states), [], math.inf
                for site, operands in self._observe(segment, sites, [states[0][:1]]).items():
                    size = images * sum(operand.nbytes for operand in operands)
                    if held + size > self._limit:
                        groups.append([])
                        held = 0
                    groups[-1].append(self.adapter.site(site))
                    held += size
            self._groups[segment] = groups
        return self._groups[segment]

    @torch.inference_mode()
    def _observe(self, segment: int, sites: list[Site], states: list[Tensor | Images]) -> dict[str, tuple[Tensor, ...]]:
        """Operands of some of a segment's sites, by name, in the order of `sites`."""
        seen: dict[str, list[tuple[Tensor, ...]]] = {}
        handles = []
        for site in sites:
            seen[site.name] = []

            def hook(module: nn.Module, operands: tuple[Tensor, ...], site: Site = site) -> None:
                seen[site.name].append((rows_of(module, operands[0]),) if site.sees_rows else operands)

            handles.append(self.adapter.module(site.name).register_forward_pre_hook(hook))
        try:
            for state in states:
                self.adapter.observe_segment(segment, state)
        finally:
            for handle in handles:
                handle.remove()
        # One after the other: joining takes as much memory once more.
        return {site.name: joined_operands(seen.pop(site.name)) for site in sites}
