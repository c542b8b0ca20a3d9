"""The two bit-widths of a site."""

from typing import NamedTuple


class Bits(NamedTuple):
    """Bits of a site's weights and of its inputs (of both operands of a matmul); None is full precision.

    A matmul has no weights: None there.
    """

    weight: int | None
    activation: int | None

    @property
    def quantized(self) -> bool:
        """Whether either has fewer bits than full precision."""
        return self != (None, None)

    @property
    def text(self) -> str:
        """As files have it: ``W3A4``, ``A4``, ``W3``."""
        return "".join(f"{kind}{bits}" for kind, bits in zip("WA", self, strict=True) if bits is not None)
