"""Binary numbers: one bit that is a sign."""

import torch
from torch import Tensor


def fake_quantize_binary(x: Tensor, scale: Tensor) -> Tensor:
    """``scale`` where x is positive or zero, ``-scale`` where it is negative; `scale` broadcasts against `x`."""
    return torch.where(x >= 0, scale, -scale)
