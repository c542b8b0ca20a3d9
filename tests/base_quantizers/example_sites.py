"""One small layer with inputs for every type of site."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lampq.plan.sites import USUALLY_FED_BY, Site
from lampq.quantized_modules.matmul import MatMul

TYPES = ("qkv", "proj", "fc1", "fc2", "qk", "pv", "patch_embed", "reduction", "head")


def site(kind: str) -> Site:
    fed_by = {"pv": "softmax"} | USUALLY_FED_BY
    return Site(f"blocks.0.{kind}", kind, 0, parameters=0, macs=0, input_elements=0, fed_by=fed_by.get(kind, "other"))


def example(kind: str, images: int = 3) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A layer and its inputs, those after a LayerNorm with channels of different size."""
    torch.manual_seed(0)
    if kind == "qk":
        return MatMul(), (torch.randn(images, 3, 9, 8), torch.randn(images, 3, 9, 8).transpose(-2, -1))
    if kind == "pv":
        return MatMul(), ((2 * torch.randn(images, 3, 9, 9)).softmax(-1), torch.randn(images, 3, 9, 8))
    if kind == "patch_embed":
        return with_normal_weights(nn.Conv2d(3, 6, 4, 4)), (torch.randn(images, 3, 12, 12),)
    if kind == "head":
        return with_normal_weights(nn.Linear(32, 11)), (torch.randn(images, 32),)
    if kind == "reduction":
        inputs = functional.layer_norm(torch.randn(images, 3, 3, 32), (32,)) * torch.linspace(0.3, 4, 32)
        return with_normal_weights(nn.Linear(32, 16, bias=False)), (inputs,)
    inputs = torch.randn(images, 9, 32)
    if kind == "fc2":
        inputs = functional.gelu(2 * inputs)
    elif kind in ("qkv", "fc1"):
        inputs = functional.layer_norm(inputs, (32,)) * torch.linspace(0.3, 4, 32) + 0.1
    return with_normal_weights(nn.Linear(32, 24)), (inputs,)


def with_normal_weights(layer: nn.Module) -> nn.Module:
    """As trained layers have them: most weights much smaller than the largest."""
    nn.init.normal_(layer.weight, std=0.2)
    return layer.requires_grad_(False)
