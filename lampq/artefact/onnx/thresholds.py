"""Thresholds of a number format: from which input on each code is given, found by asking the format itself."""

import torch
from torch import Tensor

from lampq.number_formats.adalog import AdaLogQuantizer
from lampq.number_formats.base import NumberFormat
from lampq.number_formats.log_sqrt2 import LogSqrt2Quantizer


def thresholds(number_format: NumberFormat, lowest: float, highest: float) -> tuple[Tensor, Tensor]:
    """Codes of a format whose codes fall, or rise, with the input, and where each begins.

    Bisected in the order of float32 numbers, so that every float32 input gets exactly the format's own code.

    Args:
        lowest, highest: ends of the inputs that matter; beyond them the code is that of the end.

    Returns:
        codes ``[steps + 1]`` (int32), in the order of rising inputs, and ``[steps]`` inputs (float32): the code at
        ``steps[k]`` and above is ``codes[k + 1]``, until the next.
    """
    low, high = (_ordinal(torch.tensor([end], dtype=torch.float32)) for end in (lowest, highest))
    first, last = (int(number_format.codes(_number(end).clone())) for end in (low, high))
    step = 1 if last >= first else -1
    present = torch.arange(first, last + step, step, dtype=torch.int32)
    wanted = present[1:]
    # Every threshold at once: below it the code has not yet reached the wanted one.
    below, above = low.repeat(len(wanted)), high.repeat(len(wanted))
    while bool((above - below > 1).any()):
        middle = (below + above) // 2
        reached = (number_format.codes(_number(middle)) - wanted) * step >= 0
        above = torch.where(reached, middle, above)
        below = torch.where(reached, below, middle)
    # A code that no input gets begins where the next one does.
    begins = torch.cat([above[1:] != above[:-1], torch.ones(1, dtype=torch.bool)])[: len(above)]
    return torch.cat([present[:1], wanted[begins]]), _number(above[begins])


def logarithmic_thresholds(number_format: AdaLogQuantizer | LogSqrt2Quantizer) -> tuple[Tensor, Tensor]:
    """The same for all inputs that a logarithmic format tells apart."""
    shift = number_format.shift if isinstance(number_format, AdaLogQuantizer) else 0.0
    return thresholds(number_format, -shift, float(number_format.scale) - shift)


def _ordinal(x: Tensor) -> Tensor:
    """The rank of float32 numbers among all of them (int64)."""
    bits = x.view(torch.int32).to(torch.int64)
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _number(rank: Tensor) -> Tensor:
    """The float32 number of a rank."""
    bits = torch.where(rank < 0, (-rank) | 0x80000000, rank)
    bits = torch.where(bits >= 2**31, bits - 2**32, bits)
    return bits.to(torch.int32).view(torch.float32)
