"""Bias reparameterization of the layer after GELU: its bias absorbs the shift that made its input non-negative.

Wu et al., AdaLog, ECCV 2024, section on bias reparameterization.
"""

from torch import Tensor

from lampq.number_formats.adalog import GELU_SHIFT


def absorb_shift(weight: Tensor, bias: Tensor | None, shift: float = GELU_SHIFT) -> Tensor:
    """Bias with which the layer takes ``x + shift`` instead of ``x``: ``bias - shift * sum_j weight_ij``.

    Args:
        weight: the (quantized) weight that the layer will multiply with, ``[out channels, in channels]``.
        bias: ``[out channels]`` or None.

    Returns:
        ``[out channels]``; the layer's output is unchanged.
    """
    shifted = -shift * weight.sum(1)
    return shifted if bias is None else bias + shifted
