"""A quantized model that gradients pass through: what it computes is quantized, what it differentiates is not."""

import torch
from torch import Tensor, nn

from lampq.bank.layer_bank import LayerBank
from lampq.models.adapter import ModelAdapter
from lampq.plan.bit_plan import BitPlan


def straight_through(full_precision: ModelAdapter, bank: LayerBank, plan: BitPlan | None) -> ModelAdapter:
    """The model at a plan's bits with straight-through gradients (Bengio et al. 2013).

    Rounding has no useful derivative. Here every quantized site gives out what its quantized module does, and takes
    the derivative of the full-precision module at the same operands.

    Returns:
        An adapter of its own over the full-precision model's tensors; its linear layers still are `nn.Linear` with
        the original weights. Without a plan, the full-precision model itself.
    """
    if plan is None:
        return full_precision
    adapter = full_precision.clone()
    for site in plan.sites:
        if site.bits.quantized:
            quantized = bank.module(full_precision.site(site.name), site.bits)
            adapter.module(site.name).register_forward_hook(_quantized_value(quantized))
    return adapter


def _quantized_value(quantized: nn.Module):
    def hook(module: nn.Module, operands: tuple[Tensor, ...], output: Tensor) -> Tensor:
        with torch.no_grad():
            value = quantized(*(operand.detach() for operand in operands))
        return output + (value - output).detach()

    return hook
