"""Trace of the Fisher information matrix of every layer, from one backward pass over the sample images.

``tr(F_i) = E || grad_{W_i} -log p(y|x) ||_F^2``: the mean over images of the squared gradient norm of one image, not
the squared norm of the mean gradient, which depends on the batch size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Literal

import torch
from torch import Tensor, nn

from lampq.errors import LampQError
from lampq.models.detection.pictures import Images, Pictures, Targets
from lampq.plan.bit_plan import BitPlan
from lampq.progress import progress
from lampq.sensitivity.labels import identity_of_labels, labels_of
from lampq.sensitivity.straight_through import straight_through
from lampq.sensitivity.trace import Trace
from lampq.workbench import Workbench

CHUNK = 16
"""Images of D in one backward pass; fixed, so that traces do not depend on a user's batch size."""


class Fisher(Trace):
    """tr(F_i) of every layer over D, the paper's metric (Lemma 2).

    Args:
        labels: of the loss: ``sampled`` from the model (Lemma 2) or the ``dataset``'s.
    """

    name = "fisher"
    at_plans = True

    labels: Literal["dataset", "sampled"] = "sampled"

    def traces(self, workbench: Workbench, plan: BitPlan | None = None) -> dict[str, float]:
        """On the original parameters or, straight through, in the model at a plan."""
        task, names = workbench.task, [s.name for s in workbench.layers]
        key = {
            "model": workbench.bank.identity["model"],
            "weights": workbench.bank.identity["weights"],
            **identity_of_labels(workbench, self.labels),
            "revision": 1,
            **({} if plan is None else {**workbench.scored_from.identity, "plan": plan.key()}),
        }

        def compute() -> dict[str, Tensor]:
            images, labels = task.sample_images, labels_of(workbench, self.labels)
            with progress(description="Fisher traces over D", total=len(images), unit="images") as bar:
                adapter = straight_through(workbench.adapter, workbench.scored_from, plan)
                traces = fisher_traces(
                    adapter.network,
                    names,
                    images,
                    labels,
                    chunk=1 if isinstance(images, Images) else CHUNK,
                    losses=partial(task.losses, adapter),
                    progress=lambda done, _: bar.update(done - bar.n),
                )
            return {"trace": traces.trace, "standard_error": traces.standard_error}

        stored = workbench.store.fetch("fisher_traces", key, compute)
        return dict(zip(names, stored["trace"].tolist(), strict=True))


@dataclass(frozen=True)
class FisherTraces:
    """Fisher traces of some layers, and what they were averaged from.

    Attributes:
        squared_norms: ``[images, layers]`` float64, squared Frobenius norm of the gradient of one image's loss.
    """

    squared_norms: Tensor

    @property
    def trace(self) -> Tensor:
        """``[layers]`` float64: tr(F_i), the mean over images."""
        return self.squared_norms.mean(0)

    @property
    def standard_error(self) -> Tensor:
        """``[layers]`` float64: standard error of `trace` over images; not a number with a single image."""
        if len(self.squared_norms) == 1:
            return torch.full_like(self.trace, torch.nan)
        return self.squared_norms.std(0) / len(self.squared_norms) ** 0.5


def fisher_traces(
    model: nn.Module,
    layer_names: Sequence[str],
    images: Pictures,
    labels: Targets,
    *,
    chunk: int = CHUNK,
    losses: Callable[[Pictures, Targets], Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FisherTraces:
    """Fisher traces of linear layers for the loss -log p(label | image) (section Type-aware Fisher-based Metric).

    Labels drawn from the model's own predictions (`sample_labels`) give the Fisher information of Lemma 2; labels of
    the data set give what is called the empirical Fisher.

    Args:
        model: in evaluation mode, ``[images, 3, height, width] -> [images, classes]`` where `losses` is not given; left
            as it was.
        layer_names: module paths of `nn.Linear` layers, each run once in a forward pass.
        images: ``[images, 3, height, width]``, on any device; or images of a detector, with ``chunk=1``.
        labels: ``[images]`` integer classes, or what `losses` takes.
        chunk: images in one pass; the result does not depend on it beyond rounding.
        losses: the loss of every image, ``[images]``, by running the model; None: -log p(label | image).
        progress: called after each chunk with the number of images done and of all images.

    Raises:
        LampQError: a name is not a linear layer of the model, or the layer did not run exactly once.
    """
    if model.training:
        raise ValueError("fisher_traces wants a model in evaluation mode")
    if len(labels) != len(images):
        raise ValueError(f"{len(images)} images but {len(labels)} labels")
    device = next(model.parameters()).device
    losses = losses or partial(class_losses, model)
    parts = []
    for start in range(0, len(images), chunk):
        batch, target = images[start : start + chunk].to(device), labels[start : start + chunk]
        with GradientNorms(model, layer_names, len(batch)) as norms:
            # Summed, not averaged: the gradient of one image then stays the gradient of its own loss.
            losses(batch, target).sum().backward()
        parts.append(norms.squared.cpu())
        if progress is not None:
            progress(min(start + chunk, len(images)), len(images))
    return FisherTraces(torch.cat(parts))


def class_losses(run: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """-log p(label | image) in nats of every image, ``[images]``, `run` giving logits ``[images, classes]``."""
    logits = run(images)
    return nn.functional.cross_entropy(logits, labels.to(logits.device, torch.int64), reduction="none")


class GradientNorms:
    """Squared gradient norms of single images, collected while a loss is back-propagated.

    Inside ``with``, run the model on `images` images, sum a loss over them, and call ``backward()``: then `squared`
    holds, ``[images, layers]`` in float64, ``|| G^T X ||_F^2`` of every image, X being what the image feeds the layer
    ``[rows, in]`` and G the loss gradient at the layer's output ``[rows, out]``. No parameter needs or gets a
    gradient, so the backward pass computes no weight gradients, and nothing before the first of the layers.

    Args:
        model: runs the layers; its hooks and ``requires_grad`` flags are put back when the block is left.
        layer_names: module paths of `nn.Linear` layers, each run once.
        images: number of images in the pass. A layer's leading axes hold them in order, windows and positions of an
            image together: ``[images * windows, tokens, channels]`` or ``[images, height, width, channels]``.

    Raises:
        LampQError: a name is not a linear layer of the model, or the layer did not run exactly once.
    """

    def __init__(self, model: nn.Module, layer_names: Sequence[str], images: int) -> None:
        modules = dict(model.named_modules())
        for name in layer_names:
            if not isinstance(modules.get(name), nn.Linear):
                raise LampQError(f"layer {name} is not a linear layer of the model; Fisher traces need nn.Linear")
        self._model = model
        self._layers = [(name, modules[name]) for name in layer_names]
        self._images = images
        self._norms: dict[str, Tensor] = {}
        self._run: set[str] = set()

    @property
    def squared(self) -> Tensor:
        """``[images, layers]`` float64."""
        missing = [name for name, _ in self._layers if name not in self._norms]
        if missing:
            raise LampQError(f"layer {missing[0]} did not take part in the model's output; leave it out")
        return torch.stack([self._norms[name] for name, _ in self._layers], dim=1)

    def __enter__(self) -> "GradientNorms":
        self._flags = [(p, p.requires_grad) for p in self._model.parameters()]
        for parameter, _ in self._flags:
            parameter.requires_grad_(False)
        self._hooks = [layer.register_forward_hook(self._watch(name)) for name, layer in self._layers]
        self._grad_mode = torch.enable_grad()
        self._grad_mode.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._grad_mode.__exit__(kind, error, trace)
        for hook in self._hooks:
            hook.remove()
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)

    def _watch(self, name: str) -> Callable[[nn.Module, tuple, Tensor], Tensor | None]:
        def on_forward(layer: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
            if name in self._run:
                raise LampQError(f"layer {name} runs more than once in a forward pass; leave it out")
            self._run.add(name)
            inputs = arguments[0].detach()
            if not output.requires_grad:
                # The first layer: the graph starts behind it. The copy may be changed in place, a leaf may not.
                output = output.detach().requires_grad_(True).clone()
            output.register_hook(lambda gradient: self._norms.update({name: self._norm(inputs, gradient)}))
            return output

        return on_forward

    def _norm(self, inputs: Tensor, gradient: Tensor) -> Tensor:
        return squared_gradient_norms(
            inputs.reshape(self._images, -1, inputs.shape[-1]),
            gradient.reshape(self._images, -1, gradient.shape[-1]),
        )


def squared_gradient_norms(inputs: Tensor, gradients: Tensor) -> Tensor:
    """``|| G^T X ||_F^2`` of every image, without keeping weight gradients where there is a shorter way.

    The same number is ``sum (X X^T) * (G G^T)``, which costs ``rows^2 (in + out)`` multiplications instead of
    ``rows in out``: whichever is fewer is used.

    Args:
        inputs: X, ``[images, rows, in]``.
        gradients: G, ``[images, rows, out]``.

    Returns:
        ``[images]`` float64.
    """
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    x, g = inputs.to(dtype), gradients.to(dtype)
    rows, columns_in, columns_out = x.shape[1], x.shape[2], g.shape[2]
    if rows * (columns_in + columns_out) < columns_in * columns_out:
        terms = (x @ x.transpose(1, 2)).mul_(g @ g.transpose(1, 2))
    else:
        terms = (g.transpose(1, 2) @ x).square_()
    return terms.sum(dim=(1, 2), dtype=torch.float64)
