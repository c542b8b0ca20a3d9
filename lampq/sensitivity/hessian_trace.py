"""Traces of the loss's second derivatives in each layer's weights, from products with random signs (Hutchinson).

``tr(H_i) = E z^T H_i z`` for z of independent random signs. The products H z are exact: the gradient's derivative in
the direction z, by a second backward pass through the first. HAWQ-V2 (Dong et al., NeurIPS 2020) weighs each
layer by it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lampq.parts import setting
from lampq.progress import progress
from lampq.sensitivity.labels import identity_of_labels, labels_of
from lampq.sensitivity.trace import Trace
from lampq.workbench import Workbench

CHUNK = 8
"""Images run at once; fixed, so that traces do not depend on a user's batch size."""


@dataclass(frozen=True)
class HessianTraces:
    """Hessian traces of some layers, and the single probes that they are averaged from.

    Attributes:
        samples: ``[probes, layers]`` float64, z_i^T (H z)_i of each probe.
    """

    samples: Tensor

    @property
    def trace(self) -> Tensor:
        """``[layers]`` float64: the estimate of tr(H_i), the mean over probes. May be negative."""
        return self.samples.mean(0)

    @property
    def standard_error(self) -> Tensor:
        """``[layers]`` float64: standard error of `trace` over probes; not a number with a single probe."""
        return self.samples.std(0) / len(self.samples) ** 0.5


class Hessian(Trace):
    """tr(H_i) of every layer, H_i being the Hessian of the full-precision model's mean loss; 0 where it is negative.

    Args:
        hessian_images: the first so many images of D; all of them where D has fewer.
        probes: random sign vectors of the estimate, at least 2 (its standard error comes from their spread). One
            costs as much as five or six forward passes over these images.
        labels: of the loss: the ``dataset``'s or ``sampled`` from the model.
    """

    name = "hessian"

    hessian_images: int = setting(128, minimum=1)
    probes: int = setting(16, minimum=2)
    labels: Literal["dataset", "sampled"] = "dataset"

    def traces(self, workbench: Workbench) -> dict[str, float]:
        found = self.estimated(workbench).trace.tolist()
        return {s.name: max(trace, 0.0) for s, trace in zip(workbench.layers, found, strict=True)}

    def estimated(self, workbench: Workbench) -> HessianTraces:
        """As estimated, negative ones too; stored by what they depend on, the base quantizer is none of it."""
        workbench.task.only_classifiers("Hessian traces (allocator=hawq_v2, or allocator.metric=hessian)")
        key = {
            "model": workbench.bank.identity["model"],
            "weights": workbench.bank.identity["weights"],
            **identity_of_labels(workbench, self.labels),
            "images": self.hessian_images,
            "probes": self.probes,
            "probe_seed": workbench.seed,
            "revision": 1,
        }

        def compute() -> dict[str, Tensor]:
            images = workbench.task.sample_images[: self.hessian_images]
            total = self.probes * len(images)
            with progress(description="Hessian traces over D", total=total, unit="products") as bar:
                found = hessian_traces(
                    workbench.adapter.network,
                    [s.name for s in workbench.layers],
                    images,
                    labels_of(workbench, self.labels)[: len(images)],
                    probes=self.probes,
                    seed=workbench.seed,
                    progress=bar.update,
                )
            return {"samples": found.samples}

        return HessianTraces(workbench.store.fetch("hessian_traces", key, compute)["samples"])


def hessian_traces(
    model: nn.Module,
    layer_names: Sequence[str],
    images: Tensor,
    labels: Tensor,
    *,
    probes: int,
    seed: int,
    chunk: int = CHUNK,
    progress: Callable[[int], None] | None = None,
) -> HessianTraces:
    """tr(H_i) of linear layers, H being the Hessian of the mean over images of -log p(label | image).

    One product serves all layers: z has signs in all of them, and what a layer sees of the others' signs,
    ``sum over j != i of z_i^T H_ij z_j``, is zero on average. It adds to the spread from probe to probe, which
    `HessianTraces.standard_error` tells; products for each layer by itself would cost as many times more as there are
    layers. A product costs as much as five or six forward passes; the first forward and backward pass serve all.

    Args:
        model: classifier in evaluation mode, ``[images, 3, height, width] -> [images, classes]``, that can be
            differentiated twice; left as it was.
        layer_names: module paths of `nn.Linear` layers, each part of the model's output.
        images: ``[images, 3, height, width]``, on any device.
        labels: ``[images]`` integer classes.
        probes: how many z; the first few of more are the same.
        seed: of the signs, drawn on the CPU.
        chunk: images in one pass; the result does not depend on it beyond rounding.
        progress: called after each product with the number of images it was taken over.
    """
    weights = {f"{name}.weight": model.get_submodule(name).weight.detach() for name in layer_names}
    device = next(iter(weights.values())).device
    seeds = torch.randint(2**62, (probes,), generator=torch.Generator().manual_seed(seed)).tolist()
    samples = torch.zeros(probes, len(weights), dtype=torch.float64)
    for start in range(0, len(images), chunk):
        batch, target = images[start : start + chunk].to(device), labels[start : start + chunk].to(device, torch.int64)
        with torch.enable_grad():
            # Copies that gradients are asked of; the model's own parameters and flags stay as they are.
            leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
            logits = functional_call(model, leaves, (batch,))
            loss = F.cross_entropy(logits, target, reduction="sum")
            gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
        for row, probe in enumerate(seeds):
            # Drawn again for each chunk: the signs of all probes together would take many times the model.
            signs = random_signs(gradients, probe)
            last = row == probes - 1
            products = torch.autograd.grad(gradients, list(leaves.values()), signs, retain_graph=not last)
            for column, (z, product) in enumerate(zip(signs, products, strict=True)):
                samples[row, column] += (z * product).sum(dtype=torch.float64).cpu()
            if progress is not None:
                progress(len(batch))
    return HessianTraces(samples / len(images))


def random_signs(like: Sequence[Tensor], seed: int) -> list[Tensor]:
    """+1 or -1, each with probability 1/2, in the shapes, types and places of the given tensors."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (2 * torch.randint(2, t.shape, generator=generator, dtype=torch.int8) - 1).to(t.device, t.dtype) for t in like
    ]
