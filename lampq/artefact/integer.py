"""Integer execution: codes are multiplied and summed exactly, and scaled afterwards.

A value is a whole number of steps (`NumberFormat.integers`), so a product of two quantized operands is a sum of whole
numbers times the product of their steps. Sums are exact: in int8 kernels where all numbers fit and the machine's kernel
is exact, else in floating point of enough digits; which of them is known from the formats, before there is any input.
What an operand in full precision enters stays as it is simulated.
"""

import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from lampq.artefact.whole_numbers import (
    EXACT_IN,
    HIGHEST,
    LOWEST,
    WholeNumbers,
    exact_kind,
    exact_product,
    int8_offset,
)
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.quantized_modules.convolution import QuantizedConvolution
from lampq.quantized_modules.linear import QuantizedLinear
from lampq.quantized_modules.matmul import QuantizedMatMul

log = logging.getLogger(__name__)


def to_integers(adapter: ModelAdapter) -> list[str]:
    """Let a quantized network compute in integers wherever both operands are quantized.

    Returns:
        Names of the sites that stay simulated: an operand is in full precision, or is no whole number of steps.
    """
    left = []
    for site in adapter.sites:
        module = adapter.module(site.name)
        try:
            made = integer_module(module)
        except LampQError as error:
            log.info("%s stays simulated: %s", site.name, error)
            made = None
        if made is not None:
            adapter.replace_module(site.name, made.eval())
        elif not site.is_tensor:
            left.append(site.name)
    return left


def integer_module(module: nn.Module) -> nn.Module | None:
    """The module that computes a quantized one in integers; None where an operand is not quantized.

    Raises:
        LampQError: an operand whose values are no whole numbers of steps.
    """
    if isinstance(module, QuantizedMatMul):
        return IntegerMatMul(module) if module.quantize_a is not None and module.quantize_b is not None else None
    if not isinstance(module, QuantizedLinear | QuantizedConvolution):
        return None
    if module.quantize_input is None or module.weight_format is None:
        return None
    return IntegerLinear(module) if isinstance(module, QuantizedLinear) else IntegerConvolution(module)


class IntegerLinear(nn.Module):
    """A linear layer on codes.

    Args:
        layer: the simulated one.
    """

    def __init__(self, layer: QuantizedLinear) -> None:
        super().__init__()
        self.inputs = WholeNumbers(layer.quantize_input)
        self.register_buffer("bias", layer.bias)
        self.register_buffer("channel_scale", layer.channel_scale)
        self.register_buffer("channel_shift", layer.channel_shift)
        self.weights = WeightIntegers(layer, self.inputs)

    def codes(self, x: Tensor) -> Tensor:
        """Codes of an input ``[..., in channels]`` (int32)."""
        if self.channel_scale is not None:
            x = x / self.channel_scale - self.channel_shift
        return self.inputs.of.codes(x)

    def of_codes(self, codes: Tensor) -> Tensor:
        """The layer's output ``[..., out channels]`` from the codes of its input."""
        rows = codes.flatten(0, -2)
        out = self.weights.products(
            (self.inputs(rows, part, kind, offset), self.inputs.steps[part])
            for part, (kind, offset) in enumerate(self.weights.kernels)
        )
        return (out if self.bias is None else out.add_(self.bias)).view(*codes.shape[:-1], -1)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in channels] -> [..., out channels]``"""
        return self.of_codes(self.codes(x))


class IntegerConvolution(nn.Module):
    """A convolution on codes: its patches are the rows of a linear layer.

    Args:
        layer: the simulated one.

    Raises:
        LampQError: groups.
    """

    def __init__(self, layer: QuantizedConvolution) -> None:
        super().__init__()
        if layer.groups != 1:
            raise LampQError("a convolution with groups")
        self.inputs = WholeNumbers(layer.quantize_input)
        self.register_buffer("bias", layer.bias)
        self.weights = WeightIntegers(layer, self.inputs)
        self.kernel = tuple(layer.weight.shape[2:])
        self.unfolding = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}

    def codes(self, x: Tensor) -> Tensor:
        """Codes of an input ``[images, in channels, height, width]`` (int32)."""
        return self.inputs.of.codes(x)

    def of_codes(self, codes: Tensor) -> Tensor:
        """The layer's output from the codes of its input."""
        images, _, *size = codes.shape
        out = self.weights.products(
            (self._patches(codes, part, kind, offset), self.inputs.steps[part])
            for part, (kind, offset) in enumerate(self.weights.kernels)
        )
        out = (out if self.bias is None else out.add_(self.bias)).view(images, -1, out.shape[-1]).mT
        edges = zip(
            size, self.kernel, *(_pair(self.unfolding[k]) for k in ("stride", "padding", "dilation")), strict=True
        )
        return out.reshape(images, -1, *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in edges))

    def _patches(self, codes: Tensor, part: int, kind: torch.dtype, offset: int) -> Tensor:
        wide = next(wide for wide, limit in EXACT_IN.items() if max(map(abs, self.inputs.bounds[part])) <= limit)
        patches = functional.unfold(self.inputs(codes, part, wide), self.kernel, **self.unfolding)
        rows = patches.mT.flatten(0, 1)  # zeros around a map are no steps: an offset comes after them
        return (rows - offset if offset else rows).to(kind)

    def forward(self, x: Tensor) -> Tensor:
        """``[images, in channels, height, width] -> [images, out channels, height, width]``"""
        return self.of_codes(self.codes(x))


class WeightIntegers(nn.Module):
    """A layer's weights as whole numbers, with what one of them is worth.

    Args:
        layer: a linear layer or a convolution with quantized weights.
        inputs: what they are multiplied with.

    Attributes:
        kernels: of each part of the inputs, the type in which its products are exact, and the offset of its numbers.
    """

    def __init__(self, layer: QuantizedLinear | QuantizedConvolution, inputs: WholeNumbers) -> None:
        super().__init__()
        of, weight = layer.weight_format, layer.weight.detach().flatten(1)
        rows, columns = weight.shape
        ((numbers, _),) = of.of_every_weight(rows).integers(of.codes(weight))
        low, high = numbers.amin(1), numbers.amax(1)
        bounds, width = (int(low.min()), int(high.max())), int((high - low).max())
        kinds = [exact_kind(each, bounds, columns, weight.device, width) for each in inputs.bounds]
        self.kernels = [
            (kind, int8_offset(each) if kind == torch.int8 else 0)
            for kind, each in zip(kinds, inputs.bounds, strict=True)
        ]
        scale = of.scale if len(of.scale) in (1, rows) else of.scale.repeat_interleave(rows // len(of.scale), 0)
        self.register_buffer("scale", scale)
        # Offsets of the rows that do not fit int8 as they are.
        offsets = (high - HIGHEST).clamp(min=0) + (low - LOWEST).clamp(max=0)
        self.register_buffer("offsets", offsets.to(torch.int32) if bool(offsets.any()) else None)
        self.groups = scale.shape[1]
        for group in range(self.groups):
            chosen = None if self.groups == 1 else (of.column_group == group).nonzero()[:, 0]
            self.register_buffer(f"columns{group}", chosen)
            own = numbers if chosen is None else numbers[:, chosen]
            for kind in set(kinds):
                fitting = own - offsets[:, None] if kind == torch.int8 else own
                self.register_buffer(_name(group, kind), fitting.to(kind))

    def products(self, parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """Inputs times the weights, ``[samples, out channels]``.

        Args:
            parts: the inputs' numbers ``[samples, in channels]``, as `kernels` has them, and their steps.
        """
        parts, total = list(parts), None
        for group in range(self.groups):
            columns = getattr(self, f"columns{group}")
            for (kind, offset), (numbers, step) in zip(self.kernels, parts, strict=True):
                own = numbers if columns is None else numbers[:, columns]
                beside = self.offsets if kind == torch.int8 and self.offsets is not None else 0
                summed = exact_product(own, getattr(self, _name(group, kind)).T, offset, beside)
                scaled = summed.to(step.dtype).mul_(step * self.scale[:, group])
                total = scaled if total is None else total.add_(scaled)
        return total


def _name(group: int, kind: torch.dtype) -> str:
    return f"numbers{group}_{str(kind).rpartition('.')[2]}"


class IntegerMatMul(nn.Module):
    """A product of two quantized operands on codes.

    Args:
        product: the simulated one.
    """

    def __init__(self, product: QuantizedMatMul) -> None:
        super().__init__()
        self.a, self.b = WholeNumbers(product.quantize_a), WholeNumbers(product.quantize_b)
        self.quantize_output = product.quantize_output

    def codes(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of both operands (int32)."""
        return self.a.of.codes(a), self.b.of.codes(b)

    def of_codes(self, a: Tensor, b: Tensor) -> Tensor:
        """The product from the codes of its operands."""
        total, each = None, a.shape[-2] * a.shape[-1] * b.shape[-1]
        for i, (one, step) in enumerate(zip(self.a.bounds, self.a.steps, strict=True)):
            for j, (other, beside) in enumerate(zip(self.b.bounds, self.b.steps, strict=True)):
                kind = exact_kind(one, other, a.shape[-1], a.device, each=each)
                offsets = [int8_offset(bounds) if kind == torch.int8 else 0 for bounds in (one, other)]
                summed = exact_product(self.a(a, i, kind, offsets[0]), self.b(b, j, kind, offsets[1]), *offsets)
                scaled = summed.to(step.dtype).mul_(step * beside)
                total = scaled if total is None else total.add_(scaled)
        return total if self.quantize_output is None else self.quantize_output(total)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """``[..., rows, inner] @ [..., inner, columns] -> [..., rows, columns]``"""
        return self.of_codes(*self.codes(a, b))


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
