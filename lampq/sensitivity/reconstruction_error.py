"""Layer-wise reconstruction error: of single layers, and in the current quantized model (Algorithm 1, line 15)."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lampq.bank.quantized_model import QuantizedModel
from lampq.models.adapter import ModelAdapter
from lampq.models.detection.pictures import Pictures
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from lampq.plan.sites import Site
from lampq.sensitivity.metric import Metric
from lampq.sensitivity.scores import Scores, SiteScores, falling
from lampq.workbench import Workbench

CHUNK = 16
"""Images run at once; fixed, so that errors do not depend on a user's batch size."""


class Reconstruction(Metric):
    """``||W^ X^ - W X||^2 / ||W X||^2`` with the full-precision model's X on the calibration images.

    Of an attention matmul, the same of the product of its operands.
    """

    name = "reconstruction"
    scores_sites = True

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

    def site_scores(self, workbench: Workbench, budget: Budget, options: Mapping[str, Sequence[Bits]]) -> SiteScores:
        sites = [s for s in workbench.adapter.sites if s.name in options]
        wanted = {s: list(options[s.name]) for s in sites}
        key = {**workbench.scored_from.identity, "options": {s.name: wanted[s] for s in sites}, "revision": 1}

        def compute() -> dict[str, Tensor]:
            workbench.prepare([(s, bits) for s in sites for bits in wanted[s]])
            modules = workbench.alternatives(wanted)
            images = workbench.task.calibration_images
            errors = reconstruction_errors(workbench.adapter, workbench.adapter, sites, images, modules)
            return {s.name: torch.tensor(errors[s.name][1:], dtype=torch.float64) for s in sites}

        stored = workbench.store.fetch("reconstruction_screen", key, compute)
        return {s.name: dict(zip(options[s.name], stored[s.name].tolist(), strict=True)) for s in sites}


def errors_at(
    plan: BitPlan, workbench: Workbench, budget: Budget, quantized: QuantizedModel, others: dict[Site, list[Bits]]
) -> dict[str, list[float]]:
    """Reconstruction errors, under a plan, of every layer (and of what else bits are chosen for), then at other bits;
    computed once."""
    sites = budget.chosen(workbench.adapter.sites)
    workbench.prepare([(site, bits) for site, wanted in others.items() for bits in wanted])
    key = {
        **workbench.scored_from.identity,
        "plan": plan.key(),
        "alternatives": {s.name: bits for s, bits in others.items()},
        **({"sites": [s.name for s in sites]} if budget.beyond_layers else {}),
    }

    def compute() -> dict[str, Tensor]:
        adapter = quantized.apply(plan).adapter
        images = workbench.task.calibration_images
        modules = workbench.alternatives(others, plan)
        errors = reconstruction_errors(adapter, workbench.adapter, sites, images, modules)
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in errors.items()}

    stored = workbench.store.fetch("reconstruction_errors", key, compute)
    return {name: values.tolist() for name, values in stored.items()}


@torch.inference_mode()
def reconstruction_errors(
    quantized: ModelAdapter,
    full_precision: ModelAdapter,
    layers: list[Site],
    images: Pictures,
    alternatives: dict[str, list[nn.Module]] | None = None,
) -> dict[str, list[float]]:
    """L_recon of each layer (or other site): ||W^ X^ - W X||_F^2 / ||W X||_F^2.

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
            product, target = product_and_output(full_precision.module(name), operands)
            norms[name] += product.double().square().sum().item()
            outputs = [output, *(other(*operands) for other in alternatives.get(name, []))]
            for index, other in enumerate(outputs):
                errors[name][index] += (other - target).double().square().sum().item()

        handles.append(quantized.module(layer.name).register_forward_hook(hook))
    try:
        last = max(quantized.segment_of(layer) for layer in layers)
        for chunk in images.split(CHUNK):
            for index in range(last):
                chunk = quantized.run_segment(index, chunk)
            quantized.observe_segment(last, chunk)
    finally:
        for handle in handles:
            handle.remove()
    return {name: (values / max(norms[name], 1e-30)).tolist() for name, values in errors.items()}


def product_and_output(module: nn.Module, operands: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """What a full-precision site makes of its operands, without and with its bias."""
    if isinstance(module, nn.Linear):
        product = F.linear(operands[0], module.weight)
        return product, product if module.bias is None else product + module.bias
    output = module.forward(*operands)
    bias = getattr(module, "bias", None)
    return output if bias is None else output - bias.view(-1, 1, 1), output
