"""Searching the two operands of one product in turn, each with the other one quantized.

Wu et al., AdaLog, ECCV 2024: weights first on their own error, then operand by operand on the error of the product.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lampq.calibration.alternation import alternate
from lampq.calibration.candidate_formats import AdaLogFormat, CandidateFormat, UniformFormat
from lampq.calibration.candidates import (
    CandidateGrid,
    activation_zero_points,
    log_bases,
    positive_scales,
    uniform_grid,
    weight_zero_points,
)
from lampq.calibration.operand import Operand
from lampq.calibration.progressive_search import Errors, progressive_search, survivors
from lampq.calibration.row_output_error import RowOutputError, gram
from lampq.calibration.self_error import SelfError
from lampq.calibration.tensor_output_error import TensorOutputError

UNIFORM_KEEP, ADALOG_KEEP = 8, 4
"""One candidate in this many survives a pass: for scales with zero points, and for scales with log bases."""

LOG_BASES_KEPT = 8

Parameters = tuple[Tensor, Tensor]
"""Scale and partner (zero point or log base) of every group."""


@dataclass(frozen=True)
class AlternatingSearch:
    """How thoroughly to search.

    Attributes:
        candidates: evaluated in each pass.
        rounds: how often the operands take turns.
        steps: passes of a progressive search.
        elitist: whether a search keeps the best candidate it has seen.
        row_error, tensor_error: the output errors of weights and of activations.
    """

    candidates: int = 128
    rounds: int = 3
    steps: int = 6
    elitist: bool = False
    row_error: type = field(default=RowOutputError)
    tensor_error: type = field(default=TensorOutputError)

    def search(
        self, errors: Errors, grid: CandidateGrid, incumbent: Parameters | None, keep: int = UNIFORM_KEEP
    ) -> Parameters:
        """Best parameters of every group on a grid of `candidates` and its refinements."""
        return progressive_search(errors, grid, self.candidates // keep, self.steps, incumbent, self.elitist)

    def on_itself(self, candidate_format: CandidateFormat, ascending: Tensor, grid: CandidateGrid) -> Parameters:
        """Parameters that quantize each group of sorted values ``[groups, values]`` best."""
        return self.search(SelfError(candidate_format, ascending), grid, None)

    def alternate(self, turns: list, found: list[Parameters]) -> list[Parameters]:
        """Let every turn replace its own parameters, `rounds` times or until a round changes nothing.

        A turn is a function of all parameters found so far; turn i answers with new parameters i.
        """
        return alternate(turns, found, self.rounds)

    def layer(
        self,
        weight: Tensor,
        inputs: Tensor,
        weight_format: CandidateFormat | None,
        weight_grid: CandidateGrid | None,
        activation_bits: int | None,
        zero_points: list[int] | None = None,
    ) -> tuple[Parameters | None, Parameters | None]:
        """A linear layer: row-wise weights and per-tensor inputs.

        Args:
            weight: ``[rows, inner]``.
            inputs: ``[samples, inner]``.
            weight_format, weight_grid: how weights are quantized, or None for full precision.
            activation_bits: bits of the inputs, or None for full precision.
            zero_points: the inputs' zero points that are tried; None for a window around the middle code.

        Returns:
            parameters of the weights and of the inputs, None for what stays in full precision.
        """
        if activation_bits is None:
            return self._weights_only(weight, inputs, weight_format, weight_grid), None
        operand = Operand(inputs.unsqueeze(0), UniformFormat(activation_bits))
        ascending = operand.ascending.unsqueeze(0)
        zero_points = activation_zero_points(activation_bits) if zero_points is None else zero_points
        grid = uniform_grid(ascending, activation_bits, zero_points, self.candidates)

        def search_inputs(quantized: Tensor, incumbent: Parameters) -> Parameters:
            errors = self.tensor_error(operand, quantized.T.unsqueeze(0), weight.T.unsqueeze(0))
            return self.search(errors, grid, incumbent)

        start = self.on_itself(operand.format, ascending, grid)
        return self._weights_and_inputs(weight, operand, weight_format, weight_grid, start, search_inputs, False)

    def post_gelu_layer(
        self,
        weight: Tensor,
        inputs: Tensor,
        weight_format: CandidateFormat | None,
        weight_grid: CandidateGrid | None,
        activation_bits: int | None,
        shift: float,
    ) -> tuple[Parameters | None, Parameters | None]:
        """A linear layer whose input is quantized by AdaLog after adding `shift`; else as `layer`."""
        if activation_bits is None:
            return self._weights_only(weight, inputs, weight_format, weight_grid), None
        operand = Operand(inputs.unsqueeze(0), AdaLogFormat(activation_bits), shift)
        bases = log_bases(self.candidates, inputs)
        scales = positive_scales(operand.ascending - shift, shift, self.candidates // LOG_BASES_KEPT)

        def search_inputs(quantized: Tensor, incumbent: Parameters) -> Parameters:
            errors = self.tensor_error(operand, quantized.T.unsqueeze(0), weight.T.unsqueeze(0))
            at_incumbent = errors(incumbent[0].expand(1, bases.numel(), 1), bases[None], LOG_BASES_KEPT)
            kept = bases[survivors(at_incumbent[..., 0], LOG_BASES_KEPT)]
            grid = CandidateGrid(
                scales=scales.expand(1, LOG_BASES_KEPT, -1),
                partners=kept,
                spacing=(scales[1] - scales[0])[None],
                smallest_scale=(scales[-1] * 1e-5)[None],
            )
            return self.search(errors, grid, incumbent, ADALOG_KEEP)

        start = (scales[-2:-1], bases[:1])
        return self._weights_and_inputs(weight, operand, weight_format, weight_grid, start, search_inputs, True)

    def attention_scores(self, q: Tensor, k: Tensor, bits: int) -> tuple[Parameters, Parameters]:
        """Queries and keys, ``[images, heads, tokens, channels]``: one scale a head each."""
        heads = [self._scores_of_head(q[:, head], k[:, head], bits) for head in range(q.shape[1])]
        return _joined([found[0] for found in heads]), _joined([found[1] for found in heads])

    def _scores_of_head(self, q: Tensor, k: Tensor, bits: int) -> list[Parameters]:
        operands = [Operand(q, UniformFormat(bits)), Operand(k, UniformFormat(bits))]
        grids = [self._operand_grid(operand, bits) for operand in operands]

        def turn(own: int, other: int):
            def search(found: list[Parameters]) -> Parameters:
                quantized = operands[other].quantized(*found[other])
                errors = self.tensor_error(operands[own], quantized.mT, operands[other].x.mT)
                return self.search(errors, grids[own], found[own])

            return search

        return self.alternate([turn(0, 1), turn(1, 0)], [grid.second_largest() for grid in grids])

    def attention_output(self, p: Tensor, v: Tensor, bits: int) -> tuple[Tensor, Parameters]:
        """Probabilities ``[images, heads, tokens, tokens]`` and values ``[images, heads, tokens, channels]``.

        Returns:
            the log base of the probabilities (their scale is 1) and the parameters of the values, one a head.
        """
        heads = range(v.shape[1])
        probabilities = Operand(p.flatten(0, 1), AdaLogFormat(bits))
        values = [Operand(v[:, head].mT, UniformFormat(bits)) for head in heads]
        grids = [self._operand_grid(operand, bits) for operand in values]
        bases = log_bases(self.candidates, p)
        one = torch.ones_like(bases[:1])

        def search_base(found: list[Parameters]) -> Parameters:
            quantized = [values[head].quantized(found[1][0][head], found[1][1][head]).mT for head in heads]
            errors = self.tensor_error(probabilities, torch.stack(quantized, 1).flatten(0, 1), v.flatten(0, 1))
            base = bases[survivors(errors(one.expand(1, bases.numel(), 1), bases[None], 1)[..., 0], 1)[0]]
            return one, base

        def search_values(found: list[Parameters]) -> Parameters:
            quantized = probabilities.quantized(*found[0]).view_as(p)
            answers = []
            for head in heads:
                errors = self.tensor_error(values[head], quantized[:, head].mT, p[:, head].mT)
                incumbent = tuple(parameter[head : head + 1] for parameter in found[1])
                answers.append(self.search(errors, grids[head], incumbent))
            return _joined(answers)

        start = [(one, bases[:1]), _joined([grid.second_largest() for grid in grids])]
        (_, base), found = self.alternate([search_base, search_values], start)
        return base, found

    def _operand_grid(self, operand: Operand, bits: int) -> CandidateGrid:
        return uniform_grid(operand.ascending.unsqueeze(0), bits, weight_zero_points(bits), self.candidates)

    def _weights_only(
        self, weight: Tensor, inputs: Tensor, weight_format: CandidateFormat | None, grid: CandidateGrid | None
    ) -> Parameters | None:
        if weight_format is None:
            return None
        return self.search(self.row_error(weight_format, weight, inputs), grid, None)

    def _weights_and_inputs(
        self,
        weight: Tensor,
        operand: Operand,
        weight_format: CandidateFormat | None,
        grid: CandidateGrid | None,
        start: Parameters,
        search_inputs,
        inputs_first: bool,
    ) -> tuple[Parameters | None, Parameters]:
        if weight_format is None:
            return None, self.alternate([lambda found: search_inputs(weight, found[0])], [start])[0]
        inputs = operand.x[0]
        input_gram = gram(inputs, inputs)

        def quantized_weight(found: Parameters) -> Tensor:
            return weight_format.levels(weight, found[0][:, None], found[1][:, None]).mul_(found[0][:, None])

        def search_weights(found: Parameters, inputs_found: Parameters) -> Parameters:
            quantized = operand.quantized(*inputs_found)[0]
            return self.search(self.row_error(weight_format, weight, inputs, quantized, input_gram), grid, found)

        weights = self.on_itself(weight_format, torch.sort(weight, dim=1).values, grid)
        if inputs_first:
            turns = [
                lambda found: search_inputs(quantized_weight(found[1]), found[0]),
                lambda found: search_weights(found[1], found[0]),
            ]
            inputs_found, weights = self.alternate(turns, [start, weights])
            return weights, inputs_found
        turns = [
            lambda found: search_weights(found[0], found[1]),
            lambda found: search_inputs(quantized_weight(found[0]), found[1]),
        ]
        weights, inputs_found = self.alternate(turns, [weights, start])
        return weights, inputs_found


def _joined(parameters: list[Parameters]) -> Parameters:
    """Parameters of all groups as one, ``[groups]``."""
    return torch.cat([scale for scale, _ in parameters]), torch.cat([partner for _, partner in parameters])
