"""The searches' errors in the most direct form: replay the layer for every candidate. The oracle of the fast forms."""

import torch
from torch import Tensor

from lampq.calibration.candidate_formats import CandidateFormat
from lampq.calibration.operand import Operand


class DirectRowOutputError:
    """Same arguments and answer as `lampq.calibration.row_output_error.RowOutputError`."""

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
        self.inputs = inputs if quantized_inputs is None else quantized_inputs
        self.target = inputs @ weight.T

    def __call__(self, scales: Tensor, partners: Tensor, keep: int) -> Tensor:
        errors = torch.empty(scales.shape, dtype=torch.float64, device=scales.device)
        for family in range(scales.shape[1]):
            for member in range(scales.shape[2]):
                scale, partner = scales[:, family, member, None], partners[:, family, None]
                quantized = self.format.levels(self.weight, scale, partner) * scale
                difference = self.inputs @ quantized.T - self.target
                errors[:, family, member] = difference.square().sum(0, dtype=torch.float64)
        return errors


class DirectTensorOutputError:
    """Same arguments and answer as `lampq.calibration.tensor_output_error.TensorOutputError`."""

    def __init__(self, operand: Operand, operator: Tensor, full_operator: Tensor) -> None:
        self.operand = operand
        self.operator = operator
        self.target = operand.x @ full_operator

    def __call__(self, scales: Tensor, partners: Tensor, keep: int) -> Tensor:
        errors = torch.empty(scales.shape, dtype=torch.float64, device=scales.device)
        for family in range(scales.shape[1]):
            for member in range(scales.shape[2]):
                quantized = self.operand.quantized(scales[0, family, member], partners[0, family])
                difference = quantized @ self.operator - self.target
                errors[0, family, member] = difference.square().sum(dtype=torch.float64)
        return errors
