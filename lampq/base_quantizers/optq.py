"""OPTQ (GPTQ): weights rounded column by column, each column's error compensated by the columns not yet rounded.

Frantar et al., OPTQ: Accurate Quantization for Generative Pre-trained Transformers, ICLR 2023. On Vision Transformers,
with the activations of RepQ-ViT, as the baseline of Zhong et al., ERQ, ICML 2024, is understood here (its code is not
public).
"""

import torch
from torch import Tensor

from lampq.base_quantizers.repq_activations import LinearProblem, RepQActivations
from lampq.calibration.row_output_error import gram
from lampq.number_formats.uniform import affine_codes, affine_from_range
from lampq.parts import setting


class OPTQ(RepQActivations):
    """Activations as `RepQActivations` says; weights of every layer and of the patch embedding by OPTQ.

    The grid of a row runs from its minimum to its maximum. With quantized inputs, a layer's Hessian is that of what
    it multiplies with when everything before it is quantized, inside its block too. Attention matmuls have no weights
    that could compensate anything.

    Args:
        inputs, search, literal, image_bits, channel_bound: as in `RepQActivations`.
        damping: fraction of the mean of the Hessian's diagonal that is added to the diagonal.
        block_size: columns after which all later columns are updated at once; changes rounding noise at most.
        act_order: round the columns with the largest inputs first.

    Raises:
        LampQError: a value out of its range.
    """

    name = "optq"
    revision = 1
    stores_weights = True

    damping: float = setting(0.01, above=0, at_most=1)
    block_size: int = setting(128, minimum=1, identity="never")
    act_order: bool = False

    def calibrate_weight(self, problem: LinearProblem, bits: int) -> dict[str, Tensor]:
        """Entries: ``weight_codes`` ``[out channels, in channels]``, ``weight_scale``, ``weight_zero_point``
        ``[out channels]``."""
        scale, zero_point = affine_from_range(problem.weight.amin(1), problem.weight.amax(1), bits)
        second_moments = hessian(problem.quantized_rows())
        codes = compensated_codes(
            problem.weight, second_moments, scale, zero_point, bits, self.damping, self.block_size, self.act_order
        )
        return {"weight_codes": codes.to(torch.uint8), "weight_scale": scale, "weight_zero_point": zero_point}


def hessian(inputs: Tensor) -> Tensor:
    """``2 / N X' X`` for inputs X ``[N samples, in channels]``, float64 ``[in channels, in channels]``."""
    return gram(inputs, inputs) * (2 / len(inputs))


def compensated_codes(
    weight: Tensor,
    hessian: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    bits: int,
    damping: float = 0.01,
    block_size: int = 128,
    act_order: bool = False,
) -> Tensor:
    """Codes of weights on a given grid, chosen so that little is left of the error of the layer's output.

    With U the upper Cholesky factor of the damped Hessian's inverse, column j is rounded and its error, divided by
    ``U_jj``, is taken off all later columns in proportion to ``U_j,later``. Columns that are always zero in the inputs
    become zero.

    Args:
        weight: ``[rows, columns]``.
        hessian: float64 ``[columns, columns]``.
        scale, zero_point: affine grid of every row, ``[rows]``.
        bits, damping, block_size, act_order: as in `OPTQ`.

    Returns:
        codes from 0 to ``2^bits - 1``, float64 ``[rows, columns]``.
    """
    left, hessian = weight.double(), hessian.clone()
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    left = left.masked_fill(dead, 0.0)
    order = torch.arange(left.shape[1], device=left.device)
    if act_order:
        order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    left, hessian = left[:, order], hessian[order][:, order]
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True)
    scale, zero_point = scale.double(), zero_point.double()
    codes = torch.empty_like(left)
    for start in range(0, left.shape[1], block_size):
        stop = min(start + block_size, left.shape[1])
        errors = torch.empty_like(left[:, start:stop])
        for column in range(start, stop):
            codes[:, column] = affine_codes(left[:, column], scale, zero_point, bits)
            value = (codes[:, column] - zero_point) * scale
            error = (left[:, column] - value) / factor[column, column]
            left[:, column + 1 : stop].addr_(error, factor[column, column + 1 : stop], alpha=-1)
            errors[:, column - start] = error
        left[:, stop:].addmm_(errors, factor[start:stop, stop:], alpha=-1)
    return codes[:, torch.argsort(order)]
