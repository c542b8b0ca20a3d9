"""Gradients of the loss at the outputs of sites, in the full-precision model on the calibration images.

One backward pass through the whole model, segment by segment, so that no more than one segment's graph is held; the
gradients at the segments' inputs are kept, and a site's are made from those of its segment when they are asked for.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lampq.calibration.observation import CHUNK, Observer
from lampq.models.sampled_labels import sample_labels
from lampq.plan.sites import Site

LABELS = ("sampled", "most_likely")
"""Labels that the loss is taken at, both the model's own: drawn from its predictions, or its first choice."""

SEED = 0
"""Of the drawn labels. They belong to the images, which have a seed of their own."""


class OutputGradients:
    """``dL/dO`` for the output O of every site, L being -log p(label | image), in nats, of each image.

    Args:
        observer: runs the model and keeps the segments' inputs.
        labels: one of `LABELS`.
    """

    def __init__(self, observer: Observer, labels: str) -> None:
        self._observer = observer
        self._adapter = observer.adapter
        self._labels = labels
        self._given: dict[int, list[Tensor]] = {}
        self._segment: int | None = None
        self._at_outputs: dict[str, Tensor] = {}

    def at_site(self, site: Site) -> Tensor:
        """Gradient at the output of a product (a layer or a matmul), of the output's shape, all images."""
        segment = self._adapter.segment_of(site)
        if segment != self._segment:
            self._at_outputs = self._observe(segment)
            self._segment = segment
        return self._at_outputs[site.name]

    @torch.inference_mode(False)
    @torch.enable_grad()
    def at_segment(self, index: int) -> Tensor:
        """Gradient at the output of a segment, all images: ``[images, ...]``."""
        after = torch.cat(self._after(index))
        if index < self._adapter.segments - 1:
            return after
        logits = self._logits().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(logits, after, reduction="sum"), logits)[0]

    @torch.inference_mode(False)
    def _after(self, segment: int) -> list[Tensor]:
        """What the backward pass through a segment starts from, chunk by chunk: gradients at its output, for the last
        segment labels."""
        last = self._adapter.segments - 1
        if not self._given:
            self._given[last] = self._chosen_labels()
            for index in range(last, 0, -1):
                self._given[index - 1] = self._back_through(index, self._given[index])
        return self._given[segment]

    def _observe(self, segment: int) -> dict[str, Tensor]:
        given = self._after(segment)
        seen: dict[str, list[Tensor]] = {}
        handles = []
        for site in self._adapter.sites:
            if self._adapter.segment_of(site) == segment and not site.is_tensor:
                seen[site.name] = []

                def hook(module: nn.Module, operands: tuple, output: Tensor, name: str = site.name) -> None:
                    output.register_hook(lambda gradient: seen[name].append(gradient))

                handles.append(self._adapter.module(site.name).register_forward_hook(hook))
        try:
            self._back_through(segment, given)
        finally:
            for handle in handles:
                handle.remove()
        return {name: torch.cat(chunks) for name, chunks in seen.items()}

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _back_through(self, segment: int, given: list[Tensor]) -> list[Tensor]:
        """Gradients at the input of a segment, chunk by chunk, from what `_after` gives."""
        gradients: list[Tensor] = []
        for chunk, after in zip(self._observer.segment_inputs(segment), given, strict=True):
            # A copy: the observed ones were made in inference mode, which gradients do not accept.
            inputs = chunk.clone().requires_grad_()
            output = self._adapter.run_segment(segment, inputs)
            if segment == self._adapter.segments - 1:
                # Summed, not averaged: the gradient at an image's output then is that of its own loss.
                output, after = F.cross_entropy(output, after, reduction="sum"), None
            gradients += torch.autograd.grad(output, inputs, after)
        return gradients

    def _chosen_labels(self) -> list[Tensor]:
        logits = self._logits()
        labels = sample_labels(logits, SEED) if self._labels == "sampled" else logits.argmax(1)
        return list(labels.split(CHUNK))

    @torch.inference_mode(False)
    @torch.no_grad()
    def _logits(self) -> Tensor:
        last = self._adapter.segments - 1
        chunks = self._observer.segment_inputs(last)
        return torch.cat([self._adapter.run_segment(last, chunk.clone()) for chunk in chunks])
