"""ModelOpt's metric: how far quantization moves a layer's output, weighed by what the loss makes of it there.

``score = sum over images of || dL/dY * (Y^ - Y) ||^2`` (elementwise product), Y being the layer's output in the
full-precision model, ``Y^`` what its quantized module gives on the same input, and L the loss of one image. It is
the second-order loss increase that the diagonal of the Fisher information at the output predicts, twice and summed:
NVIDIA's TensorRT Model Optimizer chooses formats by it (``auto_quantize``, gradient based). Unlike tr(F_i) it knows
the real error of every bit-width, of weights and inputs together.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lampq.models.adapter import ModelAdapter
from lampq.models.detection.pictures import Images, Pictures, Targets
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from lampq.progress import progress
from lampq.sensitivity.fisher import class_losses
from lampq.sensitivity.labels import identity_of_labels, labels_of
from lampq.sensitivity.metric import Metric
from lampq.sensitivity.scores import Scores, SiteScores
from lampq.sensitivity.straight_through import backward, straight_through
from lampq.workbench import Workbench

CHUNK = 16
"""Images run at once; fixed, so that scores do not depend on a user's batch size."""


class OutputFisher(Metric):
    """Output scores, one pass over D and no plan tried.

    As `auto_quantize` of NVIDIA's TensorRT Model Optimizer does with its gradient-based search, over the bit set
    instead of number formats. Its solver is given a smaller budget where it finds nothing; ours is exact and needs
    none.

    Where inputs have bits of their own (``activation_rule=independent``), weights are scored with inputs in full
    precision and inputs with weights in full precision: the two errors are taken to add up.

    Args:
        labels: of the loss: the ``dataset``'s, as ModelOpt takes the user's loss, or ``sampled`` from the model.
    """

    name = "output_fisher"
    scores_inputs = True
    scores_sites = True
    at_plans = True

    labels: Literal["dataset", "sampled"] = "dataset"

    def scores(self, workbench: Workbench, budget: Budget, plan: BitPlan | None = None) -> Scores:
        """Squared nats, as measured.

        Args:
            plan: inputs and gradients are those of the model at this plan, straight through; None: in full precision.
        """
        return self._scores(workbench, budget, 0, plan)

    def input_scores(self, workbench: Workbench, budget: Budget) -> Scores:
        return self._scores(workbench, budget, 1)

    def site_scores(self, workbench: Workbench, budget: Budget, options: Mapping[str, Sequence[Bits]]) -> SiteScores:
        """Squared nats, at the output of each site: of a matmul, its product."""
        return scores_of_sites(workbench, options, self.labels)

    def _scores(self, workbench: Workbench, budget: Budget, operand: int, plan: BitPlan | None = None) -> Scores:
        """Of weights (0) or inputs (1): one pass serves both."""
        pairs = bits_of_operands(budget)
        found = scores_at(workbench, [pair for of in pairs for pair in of.values()], self.labels, plan)
        return {name: {b: row[pair] for b, pair in pairs[operand].items()} for name, row in found.items()}


def bits_of_operands(budget: Budget) -> tuple[dict[int, Bits], dict[int, Bits]]:
    """What is scored, by the bits of weights and, where they are chosen by themselves, by those of inputs."""
    if not budget.independent:
        return {b: budget.bits_at(b) for b in budget.candidates}, {}
    inputs = budget.input_candidates or budget.candidates
    return {b: Bits(b, None) for b in budget.candidates}, {b: Bits(None, b) for b in inputs}


def scores_at(
    workbench: Workbench, wanted: Sequence[Bits], labels: str, plan: BitPlan | None = None
) -> dict[str, dict[Bits, float]]:
    """Scores of every layer at given (weight bits, input bits), over D; None is full precision.

    One backward pass serves all bits that are not stored yet; each is stored by itself, so that another bit set
    computes only what it adds.

    Args:
        plan: see `OutputFisher.scores`.

    Returns:
        By layer and bits, squared nats.
    """
    layers = workbench.layers

    def key(bits: Bits) -> dict:
        given = {"bits": bits[0], "input_bits": bits[1], "revision": 1}
        at_plan = {} if plan is None else {"plan": plan.key()}
        return {**workbench.scored_from.identity, **identity_of_labels(workbench, labels), **given, **at_plan}

    missing = tuple(bits for bits in wanted if not workbench.store.holds("output_fisher", key(bits)))
    workbench.prepare([(s, bits) for s in layers for bits in missing])

    @cache
    def measured(together: tuple[Bits, ...]) -> Tensor:
        modules = workbench.alternatives(dict.fromkeys(layers, together), plan)
        adapter = straight_through(workbench.adapter, workbench.scored_from, plan)
        return torch.stack(list(_measured(workbench, adapter, modules, labels).values()))

    scores: dict[str, dict[Bits, float]] = {s.name: {} for s in layers}
    for bits in wanted:

        def compute(bits: Bits = bits) -> dict[str, Tensor]:
            together = missing if bits in missing else (bits,)
            return {"score": measured(together)[:, together.index(bits)]}

        column = workbench.store.fetch("output_fisher", key(bits), compute)["score"].tolist()
        for site, score in zip(layers, column, strict=True):
            scores[site.name][bits] = score
    return scores


def scores_of_sites(
    workbench: Workbench, options: Mapping[str, Sequence[Bits]], labels: str
) -> dict[str, dict[Bits, float]]:
    """Scores of any sites at given (weight bits, input bits), over D; one backward pass for all that are not stored.

    Args:
        options: by the sites' names.
    """
    sites = {s.name: s for s in workbench.adapter.sites if s.name in options}

    def key(name: str, bits: Bits) -> dict:
        given = {"site": name, "bits": bits.weight, "input_bits": bits.activation, "revision": 1}
        return {**workbench.scored_from.identity, **identity_of_labels(workbench, labels), **given}

    missing = {
        name: [bits for bits in options[name] if not workbench.store.holds("output_fisher", key(name, bits))]
        for name in sites
    }
    missing = {name: wanted for name, wanted in missing.items() if wanted}
    workbench.prepare([(sites[name], bits) for name, wanted in missing.items() for bits in wanted])

    @cache
    def measured() -> dict[str, Tensor]:
        modules = workbench.alternatives({sites[name]: wanted for name, wanted in missing.items()})
        return _measured(workbench, workbench.adapter, modules, labels)

    def compute(name: str, bits: Bits) -> dict[str, Tensor]:
        return {"score": measured()[name][missing[name].index(bits)]}

    return {
        name: {
            bits: workbench.store.fetch("output_fisher", key(name, bits), partial(compute, name, bits))["score"].item()
            for bits in options[name]
        }
        for name in sites
    }


def _measured(
    workbench: Workbench, adapter: ModelAdapter, modules: dict[str, list[nn.Module]], labels: str
) -> dict[str, Tensor]:
    """`site_output_scores` over D."""
    images = workbench.task.sample_images
    with progress(description="output errors and gradients over D", total=len(images), unit="images") as bar:
        return site_output_scores(
            adapter,
            modules,
            images,
            labels_of(workbench, labels),
            chunk=1 if isinstance(images, Images) else CHUNK,
            losses=workbench.task.losses,
            progress=bar.update,
        )


def output_scores(
    adapter: ModelAdapter,
    alternatives: dict[str, list[nn.Module]],
    images: Pictures,
    labels: Targets,
    **how: Any,
) -> Tensor:
    """`site_output_scores` of layers that have as many alternatives each.

    Returns:
        ``[layers, alternatives]`` float64 in the order of `alternatives`.
    """
    return torch.stack(list(site_output_scores(adapter, alternatives, images, labels, **how).values()))


def site_output_scores(
    adapter: ModelAdapter,
    alternatives: dict[str, list[nn.Module]],
    images: Pictures,
    labels: Targets,
    *,
    chunk: int = CHUNK,
    losses: Callable[[ModelAdapter, Pictures, Targets], Tensor] | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """``sum over images of || dL/dY * (Y^ - Y) ||^2`` for quantized modules of sites.

    Args:
        adapter: the full-precision model; left as it was.
        alternatives: quantized modules of each site, by its name; they get the inputs of the full-precision model.
        images: ``[images, channels, height, width]``; or images of a detector, with ``chunk=1``.
        labels: ``[images]`` integer classes, or what `losses` takes.
        chunk: images in one pass; the result does not depend on it beyond rounding.
        losses: the loss of every image, ``[images]``; None: -log p(label | image), in nats.
        progress: called after each chunk with its number of images.

    Returns:
        ``[alternatives]`` float64 of each site, in their order.
    """
    losses = losses or (lambda adapter, *batch: class_losses(adapter.run, *batch))
    scores = {name: torch.zeros(len(modules), dtype=torch.float64) for name, modules in alternatives.items()}

    def watch(name: str, modules: list[nn.Module]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def on_forward(site: nn.Module, operands: tuple[Tensor, ...], output: Tensor) -> None:
            inputs = [operand.detach() for operand in operands]

            @torch.no_grad()
            def on_gradient(gradient: Tensor) -> None:
                # Once more, not kept from the forward pass: what follows a layer may change its output in place.
                exact = site.forward(*inputs)
                for column, module in enumerate(modules):
                    moved = gradient * (module(*inputs) - exact)
                    scores[name][column] += moved.double().square_().sum().cpu()

            if output.requires_grad:  # what a detector drops on the way does nothing to its loss
                output.register_hook(on_gradient)

        return on_forward

    handles = [
        adapter.module(name).register_forward_hook(watch(name, modules)) for name, modules in alternatives.items()
    ]
    try:
        backward(adapter, images, labels, losses, chunk, progress)
    finally:
        for handle in handles:
            handle.remove()
    return scores
