"""Refuse calibration inputs that hold NaN or infinity: no scale can be found from them."""

import torch
from torch import Tensor

from lampq.errors import LampQError
from lampq.plan.sites import Site


def check_finite(site: Site, tensors: tuple[Tensor, ...]) -> None:
    """Raise LampQError naming the site unless every element of every tensor is finite and there are elements."""
    for tensor in tensors:
        if tensor.numel() == 0:
            raise LampQError(f"site {site.name}: it saw no calibration input; give at least one calibration image")
        # The sum of finite float32 numbers stays finite in float64, and a sum takes no second copy of the tensor.
        if not torch.isfinite(tensor.sum(dtype=torch.float64)):
            raise LampQError(
                f"site {site.name}: its inputs or weights hold NaN or infinity; check the checkpoint and the images"
            )
