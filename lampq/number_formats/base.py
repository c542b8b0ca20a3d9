"""What every number format offers: values to integer codes, and back."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from lampq.errors import LampQError

MINIMUM_BITS, MAXIMUM_BITS = 1, 16

LARGEST_EXPONENT = 40
"""Bits of the largest whole number that a value is written as: sums of products with weights still fit 53 bits."""


def check_bits(bits: int) -> None:
    """Raise LampQError unless `bits` is an integer from 1 to 16."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not MINIMUM_BITS <= bits <= MAXIMUM_BITS:
        raise LampQError(f"bits: {bits!r} is not an integer from {MINIMUM_BITS} to {MAXIMUM_BITS}")


class NumberFormat(nn.Module, ABC):
    """A set of values that some bits can tell apart.

    A subclass is made from `tensors` (kept as buffers under the same names) and `constants` (numbers and truth values),
    given by name; so it can be written to a file and made again.

    Attributes:
        name: the format's name in a file.
        tensors, constants: arguments of its constructor.
        bits: 1 to 16.
    """

    name: ClassVar[str]
    tensors: ClassVar[tuple[str, ...]] = ("scale",)
    constants: ClassVar[tuple[str, ...]] = ("bits",)
    bits: int

    @abstractmethod
    def codes(self, x: Tensor) -> Tensor:
        """Integer codes of `x` (int32), same shape."""

    def code_range(self) -> tuple[int, int]:
        """The lowest and the highest code."""
        return 0, 2**self.bits - 1

    @abstractmethod
    def dequantize(self, codes: Tensor) -> Tensor:
        """Values of integer codes, same shape."""

    @abstractmethod
    def integers(self, codes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Codes as whole numbers and what one of them is worth: a value is the sum of the products, up to rounding.

        Returns:
            Pairs of whole numbers (in float64, the codes' shape) and their worth (broadcast against them). A format
            with two steps, of which a value takes one, has two pairs.

        Raises:
            LampQError: values that are no multiples of few steps.
        """

    def forward(self, x: Tensor) -> Tensor:
        """`x` after quantization and dequantization, same shape."""
        return self.dequantize(self.codes(x))


def of_table(values: Tensor, codes: Tensor) -> Tensor:
    """The value of each code, in the codes' shape.

    Args:
        values: of every code from 0 on, ``[codes]``.
    """
    return torch.index_select(values, 0, codes.reshape(-1)).view(codes.shape)
