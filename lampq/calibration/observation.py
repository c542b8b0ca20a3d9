"""Observing the full-precision model once: what every site is fed on the calibration images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lampq.calibration.rows import joined_operands, rows_of
from lampq.detection.images import Images
from lampq.layers import Site
from lampq.models.adapter import ModelAdapter

CHUNK = 16
"""Images run at once; fixed, so that observations do not depend on a user's batch size."""


class Observer:
    """Inputs of every site on the calibration images, in full precision.

    Images are run only when a site is asked for, and segment by segment: the input of each segment reached so far
    is kept, and the operands of one segment's sites at a time.

    Args:
        adapter: the full-precision model.
        images: gives the calibration images ``[images, channels, height, width]`` when they are needed first.
    """

    def __init__(self, adapter: ModelAdapter, images: Callable[[], Tensor | Images]) -> None:
        # Hooks on modules of its own: elsewhere, another thread may be calling the model's.
        self.adapter = adapter.clone()
        self._images = images
        self._states: list[list[Tensor | Images]] = []
        self._segment: int | None = None
        self._inputs: dict[str, tuple[Tensor, ...]] = {}

    def inputs(self, site: Site) -> tuple[Tensor, ...]:
        """The operands that reach a site: one tensor for a layer, two for a matmul; images on the first axis.

        Of images that differ in size, all tokens as those of one image; where the layer sees rows, rows.
        """
        segment = self.adapter.segment_of(site)
        if segment != self._segment:
            self._inputs = self._observe(segment)
            self._segment = segment
        return self._inputs[site.name]

    @torch.inference_mode()
    def segment_inputs(self, segment: int) -> list[Tensor | Images]:
        """What a segment is fed, `CHUNK` images at a time."""
        if not self._states:
            self._states.append(list(self._images().split(CHUNK)))
        while len(self._states) <= segment:
            index = len(self._states) - 1
            self._states.append([self.adapter.run_segment(index, state) for state in self._states[index]])
        return self._states[segment]

    @torch.inference_mode()
    def _observe(self, segment: int) -> dict[str, tuple[Tensor, ...]]:
        states = self.segment_inputs(segment)
        seen: dict[str, list[tuple[Tensor, ...]]] = {}
        handles = []
        for site in self.adapter.sites:
            if self.adapter.segment_of(site) == segment:
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
        return {name: joined_operands(calls) for name, calls in seen.items()}
