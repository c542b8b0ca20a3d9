"""The format of a layer's weights: one of the number formats, with parameters of their own for groups of weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lampq.number_formats.base import NumberFormat


@dataclass(frozen=True)
class WeightFormat:
    """How the weights of a layer, seen as ``[rows, columns]``, are coded.

    Attributes:
        kind: the number format; it is made from scale, zero point (if it has one) and bits.
        bits: 1 to 16.
        scale: ``[row groups, column groups]``. Rows in order fall into groups of one size.
        zero_point: likewise, whole numbers; None for a format around zero.
        column_group: the group of each column, ``[columns]``; None where all columns are in one.
    """

    kind: type[NumberFormat]
    bits: int
    scale: Tensor
    zero_point: Tensor | None = None
    column_group: Tensor | None = None

    @classmethod
    def of_state(cls, kind: type[NumberFormat], bits: int, state: dict[str, Tensor]) -> "WeightFormat":
        """The format that an entry of the bank describes: ``weight_scale``, ``weight_zero_point`` (of affine codes),
        each ``[row groups]`` or ``[row groups, column groups]``, and ``weight_group`` ``[columns]``."""
        scale, zero_point = state["weight_scale"], state.get("weight_zero_point")
        return cls(
            kind,
            bits,
            scale.view(len(scale), -1),
            None if zero_point is None or "zero_point" not in kind.tensors else zero_point.view(len(scale), -1),
            state.get("weight_group"),
        )

    def codes(self, weight: Tensor) -> Tensor:
        """Integer codes, int32 ``[rows, columns]``, of weights ``[rows, ...]``."""
        rows = weight.detach().flatten(1)
        return self.of_every_weight(len(rows)).codes(rows)

    def values(self, codes: Tensor) -> Tensor:
        """The weights ``[rows, columns]`` of integer codes, in the scale's precision."""
        return self.of_every_weight(len(codes)).dequantize(codes.to(torch.int32))

    def quantize(self, weight: Tensor, codes: Tensor | None = None) -> Tensor:
        """Weights after quantization and dequantization, same shape.

        Args:
            codes: integers of the same shape, where they are no function of the weights; None rounds to the nearest.
        """
        if codes is not None:
            return self.values(codes.flatten(1)).view_as(weight)
        rows = weight.detach().flatten(1)
        return self.of_every_weight(len(rows))(rows).view_as(weight)

    def of_every_weight(self, rows: int) -> NumberFormat:
        """The number format with parameters that broadcast against ``[rows, columns]``."""
        names = ("scale", "zero_point") if self.zero_point is not None else ("scale",)
        return self.kind(**{name: self._spread(getattr(self, name), rows) for name in names}, bits=self.bits)

    def _spread(self, parameter: Tensor, rows: int) -> Tensor:
        if len(parameter) not in (1, rows):
            parameter = parameter.repeat_interleave(rows // len(parameter), dim=0)
        return parameter if self.column_group is None else parameter[:, self.column_group.long()]
