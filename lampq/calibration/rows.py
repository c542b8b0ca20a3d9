"""Operands of layers that see maps or regions of different sizes, as one tensor."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lampq.plan.sites import Site
from lampq.quantized_modules.convolution import QuantizedConvolution

ROWS = 4096
"""Rows kept of one call of a layer, evenly spaced over it: a convolution on the finest level of a feature pyramid has
some ten thousand of them, of thousands of numbers each. Fixed, so that a calibration is the same everywhere."""


def rows_of(layer: nn.Module, x: Tensor) -> Tensor:
    """What each output of a layer is made of, ``[rows, in channels (times height times width of the kernel)]``.

    Args:
        layer: a convolution without groups and dilation, or a linear layer.
        x: its input, ``[maps, in channels, height, width]`` or ``[..., in channels]``.

    Returns:
        All rows, or `ROWS` of them evenly spaced.
    """
    if not isinstance(layer, nn.Conv2d):
        rows = x.reshape(-1, x.shape[-1])
        return rows[_spaced(len(rows), x.device)]
    (height, width), (down, right), (y, x_) = layer.kernel_size, layer.stride, layer.padding
    # A view: patches are copied for the rows that are kept only.
    windows = F.pad(x, (x_, x_, y, y)).unfold(2, height, down).unfold(3, width, right).permute(0, 2, 3, 1, 4, 5)
    places = _spaced(windows.shape[:3].numel(), x.device)
    return windows[torch.unravel_index(places, windows.shape[:3])].flatten(1)


def _spaced(count: int, device: torch.device) -> Tensor:
    """Numbers of the rows that are kept; in integers, so that they are the same on every machine."""
    kept = min(count, ROWS)
    return torch.arange(kept, device=device) * count // kept


def seen_layer(site: Site, layer: nn.Module) -> nn.Module:
    """A site's full-precision layer as a base quantizer sees it: a convolution that sees rows as a linear layer."""
    return _as_linear(layer) if site.sees_rows and isinstance(layer, nn.Conv2d) else layer


def built_module(build: Callable[..., nn.Module], site: Site, layer: nn.Module, *state_and_bits) -> nn.Module:
    """What a base quantizer's `build` makes of a site's layer, a convolution again where the layer is one."""
    module = build(site, seen_layer(site, layer), *state_and_bits)
    return QuantizedConvolution.of_rows(module, layer) if seen_layer(site, layer) is not layer else module


def _as_linear(convolution: nn.Conv2d) -> nn.Linear:
    """The linear layer that makes a convolution's outputs of its rows; shares weight and bias."""
    weight = convolution.weight.detach().flatten(1)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=convolution.bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if convolution.bias is not None:
        layer.bias = nn.Parameter(convolution.bias.detach(), requires_grad=False)
    return layer


def joined_operands(calls: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Operands of all calls of a layer or a product, each as one tensor: along the first axis, or, where images differ
    in size, all tokens as those of one image; pictures get zeros on the right and below, as they have them already."""
    joined = []
    for parts in zip(*calls, strict=True):
        if len({part.shape[1:] for part in parts}) == 1:
            joined.append(torch.cat(parts))
        elif parts[0].dim() == 4:
            height, width = (max(part.shape[axis] for part in parts) for axis in (2, 3))
            joined.append(torch.cat([F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2])) for x in parts]))
        else:
            joined.append(torch.cat([part.reshape(1, -1, part.shape[-1]) for part in parts], dim=1))
    return tuple(joined)
