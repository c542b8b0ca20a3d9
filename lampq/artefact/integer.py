"""Integer execution: codes are multiplied and summed exactly, and scaled afterwards.

A value is a whole number of steps (`NumberFormat.integers`), so a product of two quantized operands is a sum of whole
numbers times the product of their steps. Sums are exact: in int8 kernels where all numbers fit and the machine's kernel
is exact, else in floating point of enough digits. What an operand in full precision enters stays as it is simulated.
"""

import functools
import logging

import torch
from torch import Tensor, nn
from torch.nn import functional

from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.number_formats.base import NumberFormat
from lampq.quantized_modules.convolution import QuantizedConvolution
from lampq.quantized_modules.linear import QuantizedLinear
from lampq.quantized_modules.matmul import QuantizedMatMul

log = logging.getLogger(__name__)

EXACT_IN = {torch.float32: 2**24, torch.float64: 2**53}
"""Whole numbers up to these have no rounding."""

Parts = list[tuple[Tensor, Tensor]]
"""Whole numbers and their steps, as `NumberFormat.integers` gives them."""


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
        check_whole(layer.quantize_input)
        self.quantize_input = layer.quantize_input
        self.register_buffer("bias", layer.bias)
        self.register_buffer("channel_scale", layer.channel_scale)
        self.register_buffer("channel_shift", layer.channel_shift)
        self.weights = WeightIntegers(layer)

    def codes(self, x: Tensor) -> Tensor:
        """Codes of an input ``[..., in channels]`` (int32)."""
        if self.channel_scale is not None:
            x = x / self.channel_scale - self.channel_shift
        return self.quantize_input.codes(x)

    def of_codes(self, codes: Tensor) -> Tensor:
        """The layer's output ``[..., out channels]`` from the codes of its input."""
        shape = codes.shape[:-1]
        rows = [(numbers.flatten(0, -2), step) for numbers, step in self.quantize_input.integers(codes)]
        out = self.weights.products(rows)
        return (out if self.bias is None else out + self.bias).view(*shape, -1)

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
        check_whole(layer.quantize_input)
        if layer.groups != 1:
            raise LampQError("a convolution with groups")
        self.quantize_input = layer.quantize_input
        self.register_buffer("bias", layer.bias)
        self.weights = WeightIntegers(layer)
        self.kernel = tuple(layer.weight.shape[2:])
        self.unfolding = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}

    def codes(self, x: Tensor) -> Tensor:
        """Codes of an input ``[images, in channels, height, width]`` (int32)."""
        return self.quantize_input.codes(x)

    def of_codes(self, codes: Tensor) -> Tensor:
        """The layer's output from the codes of its input."""
        images, _, *size = codes.shape
        parts = []
        for numbers, step in self.quantize_input.integers(codes):
            patches = functional.unfold(numbers, self.kernel, **self.unfolding)  # zeros around a map are no steps
            parts.append((patches.mT.flatten(0, 1), step))
        out = self.weights.products(parts)
        out = (out if self.bias is None else out + self.bias).view(images, -1, out.shape[-1]).mT
        edges = zip(
            size, self.kernel, *(_pair(self.unfolding[k]) for k in ("stride", "padding", "dilation")), strict=True
        )
        return out.reshape(images, -1, *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in edges))

    def forward(self, x: Tensor) -> Tensor:
        """``[images, in channels, height, width] -> [images, out channels, height, width]``"""
        return self.of_codes(self.codes(x))


class WeightIntegers(nn.Module):
    """A layer's weights as whole numbers, with what one of them is worth.

    Args:
        layer: a linear layer or a convolution with quantized weights.
    """

    def __init__(self, layer: QuantizedLinear | QuantizedConvolution) -> None:
        super().__init__()
        of, rows = layer.weight_format, layer.weight.detach().flatten(1)
        ((numbers, _),) = of.of_every_weight(len(rows)).integers(of.codes(rows))
        self.register_buffer("numbers", numbers)
        scale = (
            of.scale if len(of.scale) in (1, len(rows)) else of.scale.repeat_interleave(len(rows) // len(of.scale), 0)
        )
        self.register_buffer("scale", scale)
        self.column_group = of.column_group

    def products(self, parts: Parts) -> Tensor:
        """``[samples, in channels]`` times the weights, ``[samples, out channels]``."""
        groups = range(self.scale.shape[1])
        total: Tensor | float = 0.0
        for group in groups:
            columns = slice(None) if len(groups) == 1 else self.column_group == group
            for numbers, step in parts:
                summed = exact_product(numbers[:, columns], self.numbers[:, columns].T)
                total = total + summed.to(step.dtype) * (step * self.scale[:, group])
        return total


class IntegerMatMul(nn.Module):
    """A product of two quantized operands on codes.

    Args:
        product: the simulated one.
    """

    def __init__(self, product: QuantizedMatMul) -> None:
        super().__init__()
        check_whole(product.quantize_a)
        check_whole(product.quantize_b)
        self.quantize_a, self.quantize_b = product.quantize_a, product.quantize_b
        self.quantize_output = product.quantize_output

    def codes(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of both operands (int32)."""
        return self.quantize_a.codes(a), self.quantize_b.codes(b)

    def of_codes(self, a: Tensor, b: Tensor) -> Tensor:
        """The product from the codes of its operands."""
        total: Tensor | float = 0.0
        for left, step in self.quantize_a.integers(a):
            for right, other in self.quantize_b.integers(b):
                total = total + exact_product(left, right).to(step.dtype) * (step * other)
        return total if self.quantize_output is None else self.quantize_output(total)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """``[..., rows, inner] @ [..., inner, columns] -> [..., rows, columns]``"""
        return self.of_codes(*self.codes(a, b))


def exact_product(a: Tensor, b: Tensor) -> Tensor:
    """The exact product of matrices of whole numbers (given in float64), in float64.

    Raises:
        LampQError: sums that even float64 would round.
    """
    largest = [float(x.abs().amax()) if x.numel() else 0.0 for x in (a, b)]
    bound = largest[0] * largest[1] * a.shape[-1]
    # With one inner element, PyTorch's int8 kernel leaves its output unwritten.
    if max(largest) <= 127 and a.dim() == b.dim() == 2 and a.shape[1] > 1 and int8_is_exact(str(a.device)):
        return torch._int_mm(a.to(torch.int8), b.to(torch.int8)).double()
    for kind, limit in EXACT_IN.items():
        if bound <= limit:
            return (a.to(kind) @ b.to(kind)).double()
    raise LampQError(f"sums up to {bound:.3g} are too large to be exact")


@functools.cache
def int8_is_exact(device: str) -> bool:
    """Whether this machine's product of int8 matrices is exact; some saturate sums of two products."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-127, 128, (64, 512), generator=generator, dtype=torch.int8).to(device)
    a[:32] = 127
    b = a.T.contiguous()
    try:
        return torch.equal(torch._int_mm(a, b).double(), a.double() @ b.double())
    except (RuntimeError, NotImplementedError):
        return False


def check_whole(number_format: NumberFormat) -> None:
    """Refuse a format whose values are no whole numbers of steps.

    Raises:
        LampQError: says why.
    """
    number_format.integers(
        torch.zeros((), dtype=torch.int32, device=next(number_format.buffers()).device).view(1, 1, 1, 1)
    )


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
