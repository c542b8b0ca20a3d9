"""Codes as whole numbers of a type in which their products are exact, and these products."""

import functools

import torch
from torch import Tensor, nn

from lampq.errors import LampQError
from lampq.number_formats.base import NumberFormat, of_table
from lampq.number_formats.uniform import AffineQuantizer, SymmetricQuantizer

EXACT_IN = {torch.float32: 2**24, torch.float64: 2**53}
"""Whole numbers up to these have no rounding."""

LOWEST, HIGHEST = -128, 127
"""Of int8."""

Bounds = tuple[int, int]
"""The lowest and the highest whole number that there can be."""


class WholeNumbers(nn.Module):
    """A number format's codes as whole numbers: a value is the sum, over one or two parts, of a part's number times its
    step (`NumberFormat.integers`).

    Args:
        of: the number format.

    Attributes:
        bounds: of the numbers of each part, whatever the input.

    Raises:
        LampQError: its values are no whole numbers of steps.
    """

    def __init__(self, of: NumberFormat) -> None:
        super().__init__()
        self.of = of
        lowest, highest = of.code_range()
        parameters = [getattr(of, name) for name in of.tensors]
        codes = torch.arange(lowest, highest + 1, dtype=torch.int32, device=parameters[0].device)
        pairs = of.integers(codes.view(-1, *[1] * max(parameter.dim() for parameter in parameters)))
        self.bounds: list[Bounds] = [(int(numbers.min()), int(numbers.max())) for numbers, _ in pairs]
        self._lowest = lowest
        for part, (numbers, step) in enumerate(pairs):
            self.register_buffer(f"step{part}", step)
            if not isinstance(of, AffineQuantizer | SymmetricQuantizer):
                self.register_buffer(f"numbers{part}", numbers.flatten())

    def forward(self, codes: Tensor, part: int, kind: torch.dtype, offset: int = 0) -> Tensor:
        """Numbers less an offset, in the codes' shape and in a type that holds them.

        Args:
            codes: int32.
        """
        wide = torch.int32 if kind == torch.int8 else kind
        if isinstance(self.of, SymmetricQuantizer):
            numbers = codes - offset if offset else codes
        elif isinstance(self.of, AffineQuantizer):
            numbers = codes.to(wide) - (self.of.zero_point + offset).to(wide)
        else:
            table = (getattr(self, f"numbers{part}") - offset).to(kind)
            return of_table(table, codes - self._lowest if self._lowest else codes)
        return numbers.to(kind)

    @property
    def steps(self) -> list[Tensor]:
        """Of each part."""
        return [getattr(self, f"step{part}") for part in range(len(self.bounds))]


SMALL = 2**20
"""Multiplications of a matrix product below which one call for many of them is faster than int8."""


def exact_kind(
    one: Bounds, other: Bounds, inner: int, device: torch.device, width: int | None = None, each: int = SMALL
) -> torch.dtype:
    """The fastest type in which a product of matrices is exact.

    Args:
        one, other: of the two matrices' numbers.
        inner: elements of a sum.
        width: of the second matrix, where its columns have offsets of their own: the largest number of a column less
            its lowest.
        each: multiplications of one product, where there are many, which int8 kernels take one by one.

    Returns:
        int8, of numbers less `int8_offset`; float32; or float64.

    Raises:
        LampQError: sums that even float64 would round.
    """
    bound = max(map(abs, one)) * max(map(abs, other)) * inner
    narrow = max(one[1] - one[0], other[1] - other[0] if width is None else width) <= HIGHEST - LOWEST
    if narrow and each >= SMALL and bound < 2**30 and device.type == "cpu" and int8_is_exact():
        return torch.int8
    for kind, limit in EXACT_IN.items():
        if bound <= limit:
            return kind
    raise LampQError(f"sums up to {bound:.3g} are too large to be exact")


def int8_offset(bounds: Bounds) -> int:
    """What is taken off numbers so that they fit int8; 0 where they do."""
    low, high = bounds
    return high - HIGHEST if high > HIGHEST else min(0, low - LOWEST)


def exact_product(a: Tensor, b: Tensor, offset_a: int = 0, offset_b: int | Tensor = 0) -> Tensor:
    """``(a + offset_a) @ (b + offset_b)``, exactly: int32 of int8 numbers, else in the numbers' own type.

    Args:
        a: ``[..., rows, inner]``.
        b: ``[..., inner, columns]``.
        offset_a, offset_b: of int8 numbers; `offset_b` may be one a column.
    """
    if a.dtype != torch.int8:
        return a @ b
    out = _int8_product(a, b)
    if offset_a:
        out += offset_a * b.sum(-2, keepdim=True, dtype=torch.int32)
    if isinstance(offset_b, Tensor) or offset_b:
        out += (a.sum(-1, keepdim=True, dtype=torch.int32) + a.shape[-1] * offset_a) * offset_b
    return out


def _int8_product(a: Tensor, b: Tensor) -> Tensor:
    if a.shape[-1] == 1:  # PyTorch's int8 kernel leaves its output unwritten
        return a.to(torch.int32) * b.to(torch.int32)
    if a.dim() == 2:
        return torch._int_mm(a, b)
    out = a.new_empty((*a.shape[:-1], b.shape[-1]), dtype=torch.int32)
    for each in zip(*(x.reshape(-1, *x.shape[-2:]) for x in (a, b)), out.view(-1, *out.shape[-2:]), strict=True):
        torch._int_mm(*each[:2], out=each[2])
    return out


@functools.cache
def int8_is_exact() -> bool:
    """Whether this processor's product of int8 matrices is exact; some saturate sums of two products."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(LOWEST, HIGHEST + 1, (64, 512), generator=generator, dtype=torch.int8)
    a[:16], a[16:32] = HIGHEST, LOWEST
    try:
        return torch.equal(torch._int_mm(a, a.T.contiguous()).double(), a.double() @ a.double().T)
    except (RuntimeError, NotImplementedError):
        return False
