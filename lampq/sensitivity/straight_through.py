"""A quantized model that gradients pass through: what it computes is quantized, what it differentiates is not."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lampq.bank.block_bank import BlockBank
from lampq.bank.layer_bank import LayerBank
from lampq.bank.realisation import Realisation
from lampq.models.adapter import ModelAdapter
from lampq.models.detection.pictures import Pictures, Targets, with_gradients
from lampq.plan.bit_plan import BitPlan


def straight_through(
    full_precision: ModelAdapter, source: LayerBank | Realisation | BlockBank, plan: BitPlan | None
) -> ModelAdapter:
    """The model at a plan's bits with straight-through gradients (Bengio et al. 2013).

    Rounding has no useful derivative. Here every quantized site gives out what its quantized module does, and takes
    the derivative of the full-precision module at the same operands. What a realised plan changes beside sites is
    changed here as well.

    Args:
        source: where the modules of plans come from.

    Returns:
        An adapter of its own over the full-precision model's tensors; its linear layers still are `nn.Linear` with
        the original weights. Without a plan, the full-precision model itself.
    """
    if plan is None:
        return full_precision
    adapter, sites = full_precision.clone(), {site.name for site in plan.sites}
    for name, module in source.modules(plan).items():
        if name in sites:
            adapter.module(name).register_forward_hook(_quantized_value(module))
        else:
            adapter.replace_module(name, module)
    return adapter


def _quantized_value(quantized: nn.Module):
    def hook(module: nn.Module, operands: tuple[Tensor, ...], output: Tensor) -> Tensor:
        with torch.no_grad():
            value = quantized(*(operand.detach() for operand in operands))
        return output + (value - output).detach()

    return hook


def backward(
    adapter: ModelAdapter,
    images: Pictures,
    labels: Targets,
    losses: Callable[[ModelAdapter, Pictures, Targets], Tensor],
    chunk: int,
    progress: Callable[[int], object] | None = None,
    at: Callable[[slice], None] | None = None,
) -> None:
    """Run images forward and their losses backward, chunk by chunk, for the hooks that look on; no gradient is kept.

    Args:
        images, labels: what `losses` takes.
        losses: the loss of every image, ``[images]``.
        chunk: images in one pass.
        progress: called after each chunk with its number of images.
        at: called before each chunk with its place among the images.
    """
    device = next(adapter.network.parameters()).device
    for start in range(0, len(images), chunk):
        # The graph starts at the images: no weight needs a gradient.
        batch, leaves = with_gradients(images[start : start + chunk].to(device))
        place = slice(start, start + len(batch))
        if at is not None:
            at(place)
        with torch.enable_grad():
            # Summed, not averaged: the gradient at an image's output then is that of its own loss.
            torch.autograd.grad(losses(adapter, batch, labels[place]).sum(), leaves)
        if progress is not None:
            progress(len(batch))
