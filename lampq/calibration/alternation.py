"""Searching the operands of a product in turn, until nothing changes any more."""

from collections.abc import Callable

import torch
from torch import Tensor

Found = tuple[Tensor, ...]
"""What describes the format of one operand, group by group."""


def alternate(turns: list[Callable[[list[Found]], Found]], found: list[Found], rounds: int) -> list[Found]:
    """Let every turn replace its own parameters, `rounds` times or until a round changes nothing.

    Args:
        turns: functions of all parameters found so far; turn i answers with new parameters i.
        found: the parameters to begin with; changed.
        rounds: how often the turns are taken, at most.
    """
    for _ in range(rounds):
        before = list(found)
        for index, turn in enumerate(turns):
            found[index] = turn(found)
        pairs = zip(before, found, strict=True)
        if all(torch.equal(old, new) for a, b in pairs for old, new in zip(a, b, strict=True)):
            break
    return found
