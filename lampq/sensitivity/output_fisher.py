"""ModelOpt's metric: how far quantization moves a layer's output, weighed by what the loss makes of it there.

``score = sum over images of || dL/dY * (Y^ - Y) ||^2`` (elementwise product), Y being the layer's output in the
full-precision model, ``Y^`` what its quantized module gives on the same input, and L the loss of one image. It is
the second-order loss increase that the diagonal of the Fisher information at the output predicts, twice and summed:
NVIDIA's TensorRT Model Optimizer chooses formats by it (``auto_quantize``, gradient based). Unlike tr(F_i) it knows
the real error of every bit-width, of weights and inputs together.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lampq.allocation.base import Search
from lampq.budgets import Budget
from lampq.models.adapter import ModelAdapter
from lampq.progress import progress
from lampq.sensitivity.labels import identity_of_labels, labels_of

CHUNK = 16
"""Images run at once; fixed, so that scores do not depend on a user's batch size."""


def output_fisher(search: Search, budget: Budget, labels: str) -> dict[str, dict[int, float]]:
    """Scores of every layer at every bit-width of the bit set, over D.

    One backward pass serves all bit-widths that are not stored yet; each is stored by itself, so that another bit set
    computes only what it adds.

    Args:
        budget: the bit set, and the bits of inputs.
        labels: ``dataset`` or ``sampled``.

    Returns:
        By layer and bits, squared nats, as measured: more bits may score higher (see `falling`).
    """
    layers = search.layers

    def key(bits: int) -> dict:
        given = {"bits": bits, "input_bits": budget.input_bits(bits), "revision": 1}
        return {**search.bank.identity, **identity_of_labels(search, labels), **given}

    missing = tuple(b for b in budget.candidates if not search.store.holds("output_fisher", key(b)))
    search.bank.prepare([(s, b, budget.input_bits(b)) for s in layers for b in missing])

    @cache
    def measured(bits: tuple[int, ...]) -> Tensor:
        modules = {s.name: [search.bank.module(s, b, budget.input_bits(b)) for b in bits] for s in layers}
        images = search.task.sample_images
        with progress(description="output errors and gradients over D", total=len(images), unit="images") as bar:
            return output_scores(
                search.adapter, modules, images, labels_of(search, labels), progress=lambda done: bar.update(done)
            )

    scores: dict[str, dict[int, float]] = {s.name: {} for s in layers}
    for bits in budget.candidates:

        def compute(bits: int = bits) -> dict[str, Tensor]:
            together = missing if bits in missing else (bits,)
            return {"score": measured(together)[:, together.index(bits)]}

        column = search.store.fetch("output_fisher", key(bits), compute)["score"].tolist()
        for site, score in zip(layers, column, strict=True):
            scores[site.name][bits] = score
    return scores


def output_scores(
    adapter: ModelAdapter,
    alternatives: dict[str, list[nn.Module]],
    images: Tensor,
    labels: Tensor,
    *,
    chunk: int = CHUNK,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """``sum over images of || dL/dY * (Y^ - Y) ||^2`` for quantized modules of linear layers.

    Args:
        adapter: the full-precision model; left as it was.
        alternatives: quantized modules of each layer, as many for each, by the layer's name; they get the inputs of
            the full-precision model.
        images: ``[images, channels, height, width]``.
        labels: ``[images]`` integer classes; the loss is -log p(label | image), in nats.
        chunk: images in one pass; the result does not depend on it beyond rounding.
        progress: called after each chunk with its number of images.

    Returns:
        ``[layers, alternatives]`` float64 in the order of `alternatives`.
    """
    device = next(adapter.network.parameters()).device
    scores = torch.zeros(len(alternatives), len(next(iter(alternatives.values()))), dtype=torch.float64)

    def watch(row: int, modules: list[nn.Module]) -> Callable[[nn.Linear, tuple[Tensor, ...], Tensor], None]:
        def on_forward(layer: nn.Linear, operands: tuple[Tensor, ...], output: Tensor) -> None:
            inputs = operands[0].detach()

            @torch.no_grad()
            def on_gradient(gradient: Tensor) -> None:
                # Once more, not kept from the forward pass: what follows a layer may change its output in place.
                exact = F.linear(inputs, layer.weight, layer.bias)
                for column, module in enumerate(modules):
                    moved = gradient * (module(inputs) - exact)
                    scores[row, column] += moved.double().square_().sum().cpu()

            output.register_hook(on_gradient)

        return on_forward

    handles = [
        adapter.module(name).register_forward_hook(watch(row, modules))
        for row, (name, modules) in enumerate(alternatives.items())
    ]
    try:
        for start in range(0, len(images), chunk):
            # The graph starts at the images: no weight needs a gradient.
            batch = images[start : start + chunk].to(device).clone().requires_grad_()
            target = labels[start : start + chunk].to(device, torch.int64)
            with torch.enable_grad():
                # Summed, not averaged: the gradient at an image's output then is that of its own loss.
                loss = F.cross_entropy(adapter.run(batch), target, reduction="sum")
                torch.autograd.grad(loss, batch)
            if progress is not None:
                progress(len(batch))
    finally:
        for handle in handles:
            handle.remove()
    return scores


def falling(scores: dict[int, float]) -> dict[int, float]:
    """The scores with those of more bits no higher than those of fewer bits: the running minimum from few bits up.

    A search of quantizer parameters may by chance find worse ones at more bits; since nothing forces their use, a
    layer with more bits counts as no worse (so does ModelOpt).
    """
    lowest, result = float("inf"), {}
    for bits in sorted(scores):
        # Not a number stays visible: min() would hide it.
        lowest = min(lowest, scores[bits]) if scores[bits] == scores[bits] else scores[bits]
        result[bits] = lowest
    return result
