"""Searching the parameters of a product's two operands in turn, on its weighted output error, from lists of candidates.

Yuan et al., PTQ4ViT, ECCV 2022, Algorithm 1: the first operand with the second one quantized, then the second with
the first one quantized.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lampq.calibration.alternation import Found, alternate
from lampq.calibration.weighted_output_error import WeightedOutputError


@dataclass(frozen=True)
class Searched:
    """An operand that is quantized, and what is tried for it.

    Attributes:
        start: the parameter (a scale, or the split of a twin format) of every group in use at first, ``[groups]``.
        candidates: what is tried, ``[candidates, groups]``.
        quantize: values of a tensor after quantization by the parameter of one group (a scalar).
    """

    start: Tensor
    candidates: Tensor
    quantize: Callable[[Tensor, Tensor], Tensor]

    def chosen(self, indices: list[int]) -> Found:
        """Parameters ``[groups]``, given each group's candidate."""
        return (torch.stack([self.candidates[index, group] for group, index in enumerate(indices)]),)


def search_layer(
    weight: Tensor,
    x: Tensor,
    gradient: Tensor | None,
    weights: Searched | None,
    inputs: Searched | None,
    rounds: int,
) -> tuple[Tensor | None, Tensor | None]:
    """Parameters of a linear layer: of its weights, in groups of rows, and then of its inputs, in one group.

    Args:
        weight: ``[rows, inner]``.
        x: ``[samples, inner]``.
        gradient: how much each element of the output counts, ``[samples, rows]``; None: all alike.
        weights, inputs: what is tried, or None for full precision.
        rounds: how often the two take turns.

    Returns:
        ``[groups]`` and ``[1]``, None for what stays in full precision.
    """
    groups = 1 if weights is None else len(weights.start)
    rows = weight.chunk(groups)
    target = x @ weight.T
    whole = WeightedOutputError(target, gradient)
    errors = [whole]
    if groups > 1:
        parts = [None] * groups if gradient is None else gradient.chunk(groups, 1)
        columns = target.chunk(groups, 1)
        errors = [WeightedOutputError(own.contiguous(), part) for own, part in zip(columns, parts, strict=True)]

    def search_weights(found: list[Found]) -> Found:
        seen = x if inputs is None else inputs.quantize(x, found[1][0][0])
        return weights.chosen([_best_second(errors[g], weights, g, seen, rows[g].T) for g in range(groups)])

    def search_inputs(found: list[Found]) -> Found:
        seen = weight
        if weights is not None:
            seen = torch.cat([weights.quantize(part, scale) for part, scale in zip(rows, found[0][0], strict=True)])
        return inputs.chosen([_best_first(whole, inputs, 0, x, seen.T)])

    found = [() if operand is None else (operand.start,) for operand in (weights, inputs)]
    turns = [
        (lambda found: ()) if operand is None else turn
        for operand, turn in ((weights, search_weights), (inputs, search_inputs))
    ]
    # What has no partner to wait for is found at once.
    found = alternate(turns, found, rounds if weights and inputs else 1)
    return tuple(parameters[0] if parameters else None for parameters in found)


def search_rows(weight: Tensor, x: Tensor, gradient: Tensor | None, weights: Searched) -> Tensor:
    """Parameters of a layer's weights, every row by itself, ``[rows]``; arguments as in `search_layer`.

    `weights.quantize` is given all rows and their parameters ``[rows, 1]``.
    """
    error = WeightedOutputError(x @ weight.T, gradient)
    quantized = _kept(lambda index: weights.quantize(weight, weights.candidates[index, :, None]).T)
    chosen = error.best_of_columns(len(weights.candidates), lambda index, place: x[place] @ quantized(index))
    return weights.candidates.gather(0, chosen[None])[0]


def search_matmul(
    a: Tensor,
    b: Tensor,
    gradient: Tensor | None,
    first: Searched,
    second: Searched,
    rounds: int,
    full_second: bool = False,
) -> tuple[Tensor, Tensor]:
    """Parameters of both operands of an attention matmul, each in one group, or in one a head.

    Args:
        a, b: ``[images, heads, rows, inner]`` and ``[images, heads, inner, columns]``.
        gradient: how much each element of the output counts, ``[images, heads, rows, columns]``; None: all alike.
        first, second: what is tried for `a` and for `b`.
        rounds: how often the two take turns.
        full_second: search `first` with `b` in full precision.

    Returns:
        ``[groups of a]`` and ``[groups of b]``.
    """
    whole = WeightedOutputError(a @ b, gradient)
    head_wise = range(a.shape[1])
    heads = [_head(tensor) for tensor in (a, b, whole.target, gradient)]
    errors = [WeightedOutputError(heads[2](h), heads[3](h)) for h in head_wise]

    def values(operand: Searched, x: Callable[[int], Tensor], parameters: Tensor) -> list[Tensor]:
        return [operand.quantize(x(h), parameters[h if len(parameters) > 1 else 0]) for h in head_wise]

    def search_first(found: list[Found]) -> Found:
        others = [heads[1](h) for h in head_wise] if full_second else values(second, heads[1], found[1][0])
        if len(first.start) == 1:
            return first.chosen([_best_first(whole, first, 0, a, torch.stack(others, 1))])
        return first.chosen([_best_first(errors[h], first, h, heads[0](h), others[h]) for h in head_wise])

    def search_second(found: list[Found]) -> Found:
        others = values(first, heads[0], found[0][0])
        return second.chosen([_best_second(errors[h], second, h, others[h], heads[1](h)) for h in head_wise])

    (left,), (right,) = alternate([search_first, search_second], [(first.start,), (second.start,)], rounds)
    return left, right


def _head(tensor: Tensor | None) -> Callable[[int], Tensor | None]:
    """A head of ``[images, heads, ...]``, in one piece of memory."""
    return lambda head: None if tensor is None else tensor[:, head].contiguous()


def _best_first(error: WeightedOutputError, operand: Searched, group: int, a: Tensor, b: Tensor) -> int:
    """The best candidate for `a`, ``[batch, ..., inner]``; `b` is one matrix, or has one for each of the batch."""
    shared = b.dim() == 2

    def output(index: int, place: slice) -> Tensor:
        return operand.quantize(a[place], operand.candidates[index, group]) @ (b if shared else b[place])

    return error.best(len(operand.candidates), output)


def _best_second(error: WeightedOutputError, operand: Searched, group: int, a: Tensor, b: Tensor) -> int:
    """The best candidate for `b`; arguments as in `_best_first`."""
    if b.dim() == 2:
        matrix = _kept(lambda index: operand.quantize(b, operand.candidates[index, group]))
        return error.best(len(operand.candidates), lambda index, place: a[place] @ matrix(index))

    def output(index: int, place: slice) -> Tensor:
        return a[place] @ operand.quantize(b[place], operand.candidates[index, group])

    return error.best(len(operand.candidates), output)


def _kept(compute: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    """A function of a candidate that keeps its last answer: one candidate is asked for piece after piece."""
    kept: dict[int, Tensor] = {}

    def asked(index: int) -> Tensor:
        if index not in kept:
            kept.clear()
            kept[index] = compute(index)
        return kept[index]

    return asked
