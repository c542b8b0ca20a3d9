"""The bit allocation problem in small integers: what each bit-width of each layer costs and spends (Problem 1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from lampq.errors import LampQError


@dataclass(frozen=True)
class AllocationProblem:
    """One bit-width for each layer, least total cost, within a budget of weight bits (or of whatever else is spent).

    What is spent counts from each layer's smallest allowed bit-width, in units of the greatest common divisor, and
    costs from each layer's least cost; neither changes which plan is best.

    Attributes:
        bits: candidate bit-widths, ascending.
        costs: ``[layers, candidates]`` float64 as given, columns in the order of `bits`; infinite: not allowed.
        excess_costs: ``[layers, candidates]`` float64, costs above the layer's least cost.
        units: ``[layers, candidates]`` int64, spending above the layer's smallest, in units.
        room: what the plan may spend above the smallest bit-widths, in units.
    """

    bits: tuple[int, ...]
    costs: np.ndarray
    excess_costs: np.ndarray
    units: np.ndarray
    room: int

    @classmethod
    def checked(
        cls,
        costs: np.ndarray,
        sizes: Sequence[int] | np.ndarray,
        candidate_bits: Sequence[int],
        budget: Fraction | int,
    ) -> "AllocationProblem":
        """Check an instance and bring it into small integers.

        Args:
            costs: ``[layers, candidates]``, array or CPU tensor; an infinite cost forbids the candidate.
            sizes: parameters of each layer, c_i, of which B bits spend ``c_i B``; or ``[layers, candidates]``
                integers, what each bit-width spends, which must not fall with more bits.
            candidate_bits: distinct positive bit-widths, in the order of the columns of `costs`.
            budget: weight bits (or what else is spent) in all, exact.

        Raises:
            LampQError: nothing to choose from, a cost that is not a number, spending that falls with more bits, or
                every plan is above the budget.
        """
        costs = np.asarray(costs, dtype=np.float64)
        bits, layers = [int(b) for b in candidate_bits], len(sizes)
        by_size = np.ndim(sizes) == 1
        if costs.shape != (layers, len(bits)) or not costs.size:
            raise LampQError(
                f"costs have the shape {list(costs.shape)}; give one row for each of {layers} layers "
                f"and one column for each bit-width of bit_set={bits}"
            )
        if len(set(bits)) != len(bits) or min(bits) < 1:
            raise LampQError(f"bit_set={bits}: give distinct positive bit-widths")
        if by_size and min(sizes) < 1:
            raise LampQError(f"layer {int(np.argmin(sizes))} has no parameters; leave it out")
        spending = [[int(c) * b for b in bits] for c in sizes] if by_size else [[int(x) for x in row] for row in sizes]
        if np.isnan(costs).any() or (costs == -np.inf).any():
            layer = int(np.argwhere(np.isnan(costs) | (costs == -np.inf))[0, 0])
            raise LampQError(f"a cost of layer {layer} is not a number; check the sensitivity scores")
        allowed = np.isfinite(costs)
        if not allowed.any(1).all():
            raise LampQError(f"layer {int(np.argmin(allowed.any(1)))} has no allowed bit-width; widen bit_set={bits}")

        order = np.argsort(bits)
        bits, costs, allowed = [bits[k] for k in order], costs[:, order], allowed[:, order]
        spending = [[row[k] for k in order] for row in spending]
        smallest = [row[k] for row, k in zip(spending, allowed.argmax(1), strict=True)]
        for layer, (row, ok) in enumerate(zip(spending, allowed, strict=True)):
            if any(more < less for less, more in pairwise(w for w, may in zip(row, ok, strict=True) if may)):
                raise LampQError(f"layer {layer} spends less with more bits; every bit must spend as much or more")
        floor = sum(smallest)
        if floor > budget:
            if not by_size:
                raise LampQError(f"the smallest plan spends {floor}, over the limit of {math.floor(budget)}")
            total = sum(sizes)
            raise LampQError(
                f"bits: the budget of {float(Fraction(budget) / total):.6g} bits on average is below the smallest "
                f"achievable average, {floor / total:.6g}; add a smaller bit-width to bit_set or raise bits"
            )
        above = [[w - low for w in row] for row, low in zip(spending, smallest, strict=True)]
        unit = math.gcd(*(w for row, ok in zip(above, allowed, strict=True) for w in np.array(row)[ok].tolist())) or 1
        # What is not allowed never fits.
        units = np.where(allowed, np.array(above, dtype=np.int64) // unit, np.iinfo(np.int64).max // 4)
        most = int(np.where(allowed, units, 0).max(1).sum())
        room = min((math.floor(budget) - floor) // unit, most)
        return cls(tuple(bits), costs, costs - costs.min(1, keepdims=True), units, room)

    def objective(self, choice: Sequence[int]) -> float:
        """Total cost of the plan that takes column ``choice[i]`` for layer i, summed without rounding."""
        return math.fsum(self.costs[i, k] for i, k in enumerate(choice))

    def fits(self, choice: Sequence[int]) -> bool:
        """Whether the plan is within the budget (exact)."""
        return sum(int(self.units[i, k]) for i, k in enumerate(choice)) <= self.room

    def bits_of(self, choice: Sequence[int]) -> list[int]:
        """Bit-width of each layer."""
        return [self.bits[k] for k in choice]
