"""Output error of a layer's candidate weights, row by row, from Gram matrices.

With a candidate row ``w + d`` and quantized inputs ``X + E`` the error of that row's outputs is
``d'(X + E)'(X + E)d + 2 d'(X + E)'E w + w'E'E w``: no sum over tokens is left, and no large numbers cancel.
"""

import torch
from torch import Tensor

from lampq.calibration.candidate_formats import CandidateFormat

GRAM_ROWS = 4096
CHUNK_ELEMENTS = 2**19


def gram(a: Tensor, b: Tensor) -> Tensor:
    """``a' b`` accumulated in float64: ``[rows, m], [rows, n] -> [m, n]``."""
    total = torch.zeros(a.shape[1], b.shape[1], dtype=torch.float64, device=a.device)
    for start in range(0, a.shape[0], GRAM_ROWS):
        chunk = a[start : start + GRAM_ROWS].double()
        other = chunk if b is a else b[start : start + GRAM_ROWS].double()
        total.addmm_(chunk.T, other)
    return total


class RowOutputError:
    """Errors of candidate weights; a group is a row. Called as `progressive_search` calls it.

    Args:
        candidate_format: number format of the weights.
        weight: ``[rows, inner]``.
        inputs: full-precision inputs ``[samples, inner]``.
        quantized_inputs: the inputs that the layer will see, same shape, or None if they are the same.
        input_gram: ``gram(inputs, inputs)`` if it is already known.
    """

    def __init__(
        self,
        candidate_format: CandidateFormat,
        weight: Tensor,
        inputs: Tensor,
        quantized_inputs: Tensor | None = None,
        input_gram: Tensor | None = None,
    ) -> None:
        self.format = candidate_format
        self.weight = weight
        w = weight.double()
        plain = gram(inputs, inputs) if input_gram is None else input_gram
        if quantized_inputs is None:
            quadratic, linear, constant = plain, torch.zeros_like(w), torch.zeros_like(w[:, 0])
        else:
            quadratic = gram(quantized_inputs, quantized_inputs)
            cross = gram(quantized_inputs, inputs)
            linear = w @ (quadratic - cross).T
            constant = ((w @ (quadratic - cross - cross.T + plain)) * w).sum(1)
        self.quadratic = quadratic.to(weight.dtype)
        self.linear = linear.to(weight.dtype)
        self.constant = constant
        self.weight_quadratic = (w @ quadratic).to(weight.dtype)

    def __call__(self, scales: Tensor, partners: Tensor, keep: int) -> Tensor:
        """Errors ``[rows, families, members]``, float64."""
        _, families, members = scales.shape
        per_chunk = max(1, CHUNK_ELEMENTS // (families * members * self.weight.shape[1]))
        chunks = [
            self._errors(slice(start, start + per_chunk), scales, partners)
            for start in range(0, scales.shape[0], per_chunk)
        ]
        return torch.cat(chunks)

    def _errors(self, rows: slice, scales: Tensor, partners: Tensor) -> Tensor:
        scales, partners = scales[rows], partners[rows]
        weight, linear = self.weight[rows], self.linear[rows]
        weight_quadratic = self.weight_quadratic[rows]
        levels = self.format.levels(weight[:, None, None], scales[..., None], partners[..., None, None])
        inner = levels.shape[-1]
        representative, inverse = distinct_levels(levels, partners)
        # Candidates of one row with the same levels differ in scale only: one product serves them all.
        unscaled = levels.view(-1, inner)[representative]
        flat_scales = scales.reshape(-1)
        scale = flat_scales[representative]
        row = representative // (scales.shape[1] * scales.shape[2])
        difference = torch.addcmul(-weight[row], unscaled, scale[:, None])
        product = difference @ self.quadratic
        slope = product + linear[row]
        error = (difference * (slope + linear[row])).sum(1, dtype=torch.float64)
        first = (unscaled * slope).sum(1, dtype=torch.float64)
        second = (unscaled * (product + weight_quadratic[row])).sum(1, dtype=torch.float64) / scale.double()
        step = (flat_scales - scale[inverse]).double()
        errors = error[inverse] + 2 * step * first[inverse] + step.square() * second[inverse]
        return errors.view(scales.shape) + self.constant[rows, None, None]


def distinct_levels(levels: Tensor, partners: Tensor) -> tuple[Tensor, Tensor]:
    """Find candidates of a row with identical levels.

    With the partner fixed, no element's magnitude of level grows with the scale; so two candidates have the same
    levels exactly if the sums of their magnitudes agree.

    Args:
        levels: integer-valued, ``[rows, families, members, inner]``.
        partners: ``[rows, families]``.

    Returns:
        flat indices of one candidate for each different one, ``[distinct]``, and for every candidate its place in
        that list, ``[rows * families * members]``.
    """
    total = torch.linalg.vector_norm(levels, ord=1, dim=-1, dtype=torch.float64).long()
    row = torch.arange(levels.shape[0], device=levels.device)[:, None]
    label = (row * 2**17 + partners.long())[..., None]
    keys, inverse = torch.unique(label * 2**30 + total, return_inverse=True)
    inverse = inverse.flatten()
    index = torch.arange(inverse.numel(), device=levels.device)
    representative = torch.full_like(keys, inverse.numel()).scatter_reduce_(0, inverse, index, "amin")
    return representative, inverse
