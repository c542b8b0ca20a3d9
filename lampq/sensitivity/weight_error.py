"""How far quantization moves the weights of a layer, whatever becomes of its output."""

import torch
from torch import Tensor, nn

from lampq.errors import LampQError
from lampq.plan.budget import Budget
from lampq.quantized_modules.linear import QuantizedLinear
from lampq.sensitivity.metric import Metric
from lampq.sensitivity.scores import Scores
from lampq.workbench import Workbench


class WeightError(Metric):
    """``|| Q_b(W) - W ||^2`` of all weights of a layer, in the units of the original weights."""

    name = "weight_error"

    def scores(self, workbench: Workbench, budget: Budget) -> Scores:
        layers, bits = workbench.layers, budget.candidates
        workbench.prepare([(s, budget.bits_at(b)) for s in layers for b in bits])
        errors = {}
        for site in layers:
            original = workbench.adapter.module(site.name).weight.detach().double()
            modules = workbench.alternatives({site: [budget.bits_at(b) for b in bits]})[site.name]
            errors[site.name] = {
                b: (effective_weight(module, site.name).double() - original).square().sum().item()
                for b, module in zip(bits, modules, strict=True)
            }
        return errors


@torch.no_grad()
def effective_weight(module: nn.Module, name: str) -> Tensor:
    """What the layer's own input is multiplied with in the end, ``[out channels, in channels]``.

    After a reparameterized LayerNorm the module multiplies ``x / r - t`` with the quantized ``W diag(r)``: x itself
    meets that weight divided by r, and only this compares with W, whose Hessian it is. What t adds is a bias.

    Raises:
        LampQError: a module that does not tell its weights.
    """
    if not isinstance(module, QuantizedLinear):
        raise LampQError(
            f"base_quantizer: {type(module).__name__} at {name} does not tell its quantized weights, which "
            "the allocator needs; choose another allocator"
        )
    return module.weight if module.channel_scale is None else module.weight / module.channel_scale
