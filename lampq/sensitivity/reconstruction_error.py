"""Layer-wise reconstruction error: of single layers, and in the current quantized model (Algorithm 1, line 15)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lampq.models.adapter import ModelAdapter
from lampq.models.detection.pictures import Pictures
from lampq.plan.budget import Budget
from lampq.plan.sites import Site
from lampq.sensitivity.metric import Metric
from lampq.sensitivity.scores import Scores, falling
from lampq.workbench import Workbench

CHUNK = 16
"""Images run at once; fixed, so that errors do not depend on a user's batch size."""


class Reconstruction(Metric):
    """``||W^ X^ - W X||^2 / ||W X||^2`` with the full-precision model's X on the calibration images."""

    name = "reconstruction"

    def scores(self, workbench: Workbench, budget: Budget) -> Scores:
        layers, bits = workbench.layers, list(budget.candidates)
        wanted = [budget.bits_at(b) for b in bits]
        key = {
            **workbench.scored_from.identity,
            "bits": bits,
            "inputs": [budget.input_bits(b) for b in bits],
            "revision": 1,
        }

        def compute() -> dict[str, Tensor]:
            workbench.prepare([(s, bits) for s in layers for bits in wanted])
            modules = workbench.alternatives(dict.fromkeys(layers, wanted))
            images = workbench.task.calibration_images
            errors = reconstruction_errors(workbench.adapter, workbench.adapter, layers, images, modules)
            # The first is that of the full-precision layer itself.
            return {"error": torch.tensor([errors[s.name][1:] for s in layers], dtype=torch.float64)}

        stored = workbench.store.fetch("reconstruction_screen", key, compute)["error"].tolist()
        return {s.name: falling(dict(zip(bits, row, strict=True))) for s, row in zip(layers, stored, strict=True)}


@torch.inference_mode()
def reconstruction_errors(
    quantized: ModelAdapter,
    full_precision: ModelAdapter,
    layers: list[Site],
    images: Pictures,
    alternatives: dict[str, list[nn.Module]] | None = None,
) -> dict[str, list[float]]:
    """L_recon of each layer: ||W^ X^ - W X||_F^2 / ||W X||_F^2.

    X is what reaches the layer in the quantized model, before its own quantizer; both products are taken from that
    same X, so the error reacts to the bits of earlier layers. The bias cancels in the difference and is left out of
    the norm.

    Args:
        quantized: the model at the current plan.
        full_precision: the original model (its weights W).
        layers: which layers.
        images: calibration images ``[images, channels, height, width]``.
        alternatives: further quantized modules of a layer to be measured on the same X.

    Returns:
        For each layer its error at the current bits, then those of its alternatives.
    """
    alternatives = alternatives or {}
    errors = {
        layer.name: torch.zeros(1 + len(alternatives.get(layer.name, [])), dtype=torch.float64) for layer in layers
    }
    norms = {layer.name: 0.0 for layer in layers}
    handles = []
    for layer in layers:

        def hook(module: nn.Module, operands: tuple[Tensor, ...], output: Tensor, name: str = layer.name) -> None:
            original = full_precision.module(name)
            product = F.linear(operands[0], original.weight)
            target = product if original.bias is None else product + original.bias
            norms[name] += product.double().square().sum().item()
            outputs = [output, *(other(operands[0]) for other in alternatives.get(name, []))]
            for index, other in enumerate(outputs):
                errors[name][index] += (other - target).double().square().sum().item()

        handles.append(quantized.module(layer.name).register_forward_hook(hook))
    try:
        for chunk in images.split(CHUNK):
            quantized.run(chunk, stop=quantized.segments - 1)  # the layers are in the blocks
    finally:
        for handle in handles:
            handle.remove()
    return {name: (values / max(norms[name], 1e-30)).tolist() for name, values in errors.items()}
