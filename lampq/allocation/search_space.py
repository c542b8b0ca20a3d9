"""What an allocator chooses among: groups of layers that share their bits, and what each bit-width spends."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from lampq.allocation.solvers.allocation_problem import AllocationProblem
from lampq.allocation.solvers.dynamic_program import Allocation
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import UNITS, Budget, packed_bytes
from lampq.plan.groups import Group, Ties, check_bound, group_name, pinned, tied
from lampq.plan.sites import Site
from lampq.sensitivity.scores import Scores
from lampq.workbench import Workbench

INPUT_BITS = "input bits"
"""What a budget of inputs is counted in."""


@dataclass(frozen=True)
class SearchSpace:
    """All plans that ties, pins and bit set leave, and which of them the budget allows.

    Attributes:
        groups: what bits are chosen for, ordered by their first layers.
        room: what may be spent above the smallest plan, in the budget's unit; at least 0.
        unit: what that is counted in, in words.
    """

    groups: tuple[Group, ...]
    room: int
    unit: str

    @classmethod
    def open(cls, workbench: Workbench, budget: Budget, ties: Ties = "none") -> "SearchSpace":
        """The weight bits (and with them, by the budget's rules, the input bits) of the 4N layers.

        For a budget of bytes, each site is calibrated at one bit-width, the target or the next smaller in the bit
        set: how many scales and zero points a site stores, that tells for all bit-widths.

        Args:
            ties: of the allocator itself, beside the budget's.

        Raises:
            LampQError: pins and ties that name no layer or contradict each other, or no plan keeps the budget.
        """
        packed = None
        if budget.unit == "packed_bytes":
            sites, parameters = workbench.adapter.sites, workbench.adapter.parameters()
            bits = max((b for b in budget.candidates if b <= budget.weight_bits), default=min(budget.candidates))
            reference = budget.plan(sites, dict.fromkeys((s.name for s in workbench.layers), bits))
            workbench.bank.calibrate(reference)
            stored = workbench.bank.quantizer_parameters(reference)

            def packed(plan: BitPlan) -> int:
                return packed_bytes(sites, plan, parameters, stored)

        return cls._of_weights(workbench.adapter, budget, packed, ties)

    @classmethod
    def check(cls, adapter: ModelAdapter, budget: Budget, ties: Ties = "none") -> None:
        """Refuse what can be refused before any work: all that `open` does, as if scales took no bytes.

        Args:
            ties: of the allocator itself, beside the budget's.

        Raises:
            LampQError: see `open`.
        """

        def weights_alone(plan: BitPlan) -> int:
            return packed_bytes(adapter.sites, plan, adapter.parameters(), 0)

        cls._of_weights(adapter, budget, weights_alone, ties)
        if budget.independent:
            cls.of_inputs([s for s in adapter.sites if s.allocated], budget)

    @classmethod
    def _of_weights(
        cls, adapter: ModelAdapter, budget: Budget, packed: Callable[[BitPlan], int] | None, ties: Ties
    ) -> "SearchSpace":
        sites, layers = adapter.sites, [s for s in adapter.sites if s.allocated]

        def spent(layer_bits: dict[str, int]) -> int:
            return budget.spent(sites, budget.plan(sites, layer_bits), packed)

        limit = budget.limit
        if limit is None:
            limit = equal_bits_spend(layers, budget.weight_bits, spent)
        return cls._of(layers, budget, budget.candidates, spent, limit, UNITS[budget.unit], ties)

    @classmethod
    def of_average_bits(cls, layers: Sequence[Site], budget: Budget, ties: Ties = "none") -> "SearchSpace":
        """The weight bits of the 4N layers under a budget of average bits, which no more of a model needs to be known.

        Raises:
            LampQError: see `open`.
        """

        def spent(layer_bits: dict[str, int]) -> int:
            return sum(s.parameters * layer_bits[s.name] for s in layers)

        limit = equal_bits_spend(layers, budget.weight_bits, spent)
        return cls._of(layers, budget, budget.candidates, spent, limit, UNITS["average_bits"], ties)

    @classmethod
    def of_inputs(cls, layers: Sequence[Site], budget: Budget) -> "SearchSpace":
        """The bits of the layers' inputs, where they are independent: ``sum e_i A_i <= a_t sum e_i``, e_i elements.

        Raises:
            LampQError: see `open`.
        """

        def spent(input_bits: dict[str, int]) -> int:
            return sum(s.input_elements * input_bits[s.name] for s in layers)

        limit = equal_bits_spend(layers, budget.activation_bits, spent)
        bits = budget.input_candidates or budget.candidates
        return cls._of(layers, budget, bits, spent, limit, INPUT_BITS, "none")

    @classmethod
    def _of(
        cls,
        layers: Sequence[Site],
        budget: Budget,
        candidates: Sequence[int],
        spent: Callable[[dict[str, int]], int],
        limit: int,
        unit: str,
        ties: Ties,
    ) -> "SearchSpace":
        pins = pinned(layers, budget.pins)
        tied_layers = tied(layers, budget.ties, ties)
        for members in tied_layers:
            check_bound(members, pins)
        smallest = {s.name: pins.get(s.name, min(candidates)) for s in layers}
        floor = spent(smallest)
        if floor > limit:
            raise LampQError(_infeasible(budget, candidates, floor, limit, unit, sum(s.parameters for s in layers)))
        groups = []
        for members in tied_layers:
            may = [pins[members[0].name]] if members[0].name in pins else sorted(candidates)
            # What a group spends adds to what the others do, so it can be told with the others at their smallest.
            spending = {b: spent({**smallest, **{s.name: b for s in members}}) - floor for b in may}
            if sorted(spending.values()) != list(spending.values()):
                raise RuntimeError(f"{group_name(members)} spends fewer {unit} with more bits: {spending}")
            groups.append(Group(group_name(members), tuple(members), spending, members[0].name in pins))
        return cls(tuple(groups), limit - floor, unit)

    @cached_property
    def bits(self) -> tuple[int, ...]:
        """Every bit-width that any group may have: the columns of `costs` and `spending`."""
        return tuple(sorted({b for group in self.groups for b in group.bits}))

    @cached_property
    def spending(self) -> np.ndarray:
        """``[groups, bits]`` int64, above the smallest plan; 0 where a group may not have the bits."""
        return np.array([[group.spending.get(b, 0) for b in self.bits] for group in self.groups], dtype=np.int64)

    def costs(self, scores: Scores) -> np.ndarray:
        """``[groups, bits]`` float64: the sum of the layers' scores, infinite where a group may not have the bits.

        A pinned group costs nothing, whatever its layers score: nothing is chosen for it.
        """

        def cost(group: Group, bits: int) -> float:
            if bits not in group.spending:
                return math.inf
            return 0.0 if group.pinned else math.fsum(scores[s.name][bits] for s in group.layers)

        return np.array([[cost(group, bits) for bits in self.bits] for group in self.groups])

    def solved(self, scores: Scores, solver: Callable[[AllocationProblem], Allocation]) -> Allocation:
        """What a solver makes of the scores: bits of each group.

        Raises:
            LampQError: a score is not a number.
        """
        return solver(self.problem(self.costs(scores)))

    def problem(self, costs: np.ndarray) -> AllocationProblem:
        """The allocation problem of these costs ``[groups, bits]``.

        Raises:
            LampQError: a cost is not a number.
        """
        return AllocationProblem.checked(costs, self.spending, self.bits, self.room)

    def layer_bits(self, bits: Sequence[int]) -> dict[str, int]:
        """Bits of each layer, by name, from those of each group."""
        return {s.name: b for group, b in zip(self.groups, bits, strict=True) for s in group.layers}

    def group_bits(self, layer_bits: Mapping[str, int]) -> dict[str, int]:
        """Bits of each group, by its name, from those of each layer."""
        return {group.name: layer_bits[group.layers[0].name] for group in self.groups}

    def spent(self, group_bits: Mapping[str, int]) -> int:
        """What a plan spends above the smallest plan."""
        return sum(group.spending[group_bits[group.name]] for group in self.groups)

    def equal_bits(self, bits: int) -> dict[str, int]:
        """Bits of each layer where all have `bits`, but those that are pinned.

        Raises:
            LampQError: that is above the budget.
        """
        chosen = {group.name: group.bits[0] if group.pinned else bits for group in self.groups}
        if self.spent(chosen) > self.room:
            raise LampQError(
                f"weight_bits={bits}: equal bits together with pins and budget_limit spend "
                f"{self.spent(chosen) - self.room} {self.unit} too much; choose fewer, or an allocator that solves it"
            )
        return self.layer_bits(list(chosen.values()))


def equal_bits_spend(layers: Sequence[Site], target: Fraction, spent: Callable[[dict[str, int]], int]) -> int:
    """What the target at every layer would spend, rounded down; between integers, on the line between its neighbours.

    Args:
        target: bits, an exact fraction.
        spent: of layer bits.
    """
    low = math.floor(target)
    at = [spent(dict.fromkeys((s.name for s in layers), bits)) for bits in (low, low + (target > low))]
    return math.floor(at[0] + (target - low) * (at[1] - at[0]))


def _infeasible(budget: Budget, candidates: Sequence[int], floor: int, limit: int, unit: str, parameters: int) -> str:
    pins = f" with pins={{{','.join(f'{word}:{bits}' for word, bits in budget.pins)}}}" if budget.pins else ""
    fewer = ", pin fewer layers" if pins else ""
    if unit == UNITS["average_bits"]:
        return (
            f"bits: the budget of {limit / parameters:.6g} bits on average is below the smallest achievable average, "
            f"{floor / parameters:.6g}{pins}; add a smaller bit-width to bit_set{fewer} or raise bits"
        )
    key = "activation_bits" if unit == INPUT_BITS else "bits" if budget.limit is None else "budget_limit"
    return (
        f"{key}: the limit of {limit} {unit} is below the {floor} of the smallest plan of "
        f"bit_set.bits={sorted(candidates)}{pins}; add a smaller bit-width{fewer} or raise {key}"
    )
