"""What an allocator chooses among: groups of layers that share their bits, and what each bit-width spends."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product

import numpy as np

from lampq.allocation.solvers.allocation_problem import AllocationProblem
from lampq.allocation.solvers.dynamic_program import Allocation
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.plan.budget import UNITS, Budget, packed_bytes
from lampq.plan.groups import Group, Ties, check_bound, group_names, pinned, tied
from lampq.plan.sites import OUTSIDE_TYPES, Site
from lampq.sensitivity.metric import Metric
from lampq.sensitivity.scores import Scores, SiteScores, at_the_target, no_more
from lampq.workbench import Workbench

INPUT_BITS = "input bits"
"""What a budget of inputs is counted in."""


OPERAND_BITS = "operand bits"
"""What a budget of operands is counted in."""

Options = Callable[[Site, int | None], dict[int, Bits]]
"""What a site may have: weight bits and input bits, by the number that stands for them (see `Group.spending`); the
bits that it is pinned to, where it is."""


@dataclass(frozen=True)
class SearchSpace:
    """All plans that ties, pins and bit set leave, and which of them a limit allows.

    Attributes:
        groups: what bits are chosen for, ordered by their first sites.
        room: what may be spent above the smallest plan, in the budget's unit; at least 0.
        unit: what that is counted in, in words.
    """

    groups: tuple[Group, ...]
    room: int
    unit: str

    @classmethod
    def open(cls, workbench: Workbench, budget: Budget, ties: Ties = "none") -> "SearchSpace":
        """All that the budget's own limit is on: the weight bits (and with them, by the budget's rules, the input bits)
        of the 4N layers and of what else bits are chosen for; under bit operations, operands of matmuls too.

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

        return cls._of_budget(workbench.adapter, budget, packed, ties)

    @classmethod
    def each(cls, workbench: Workbench, budget: Budget, ties: Ties = "none") -> tuple["SearchSpace", ...]:
        """One space a limit. Bit operations limit everything at once; bits and bytes limit the weights alone, and there
        inputs that are chosen by themselves and operands have limits of their own.

        Raises:
            LampQError: see `open`.
        """
        return cls.open(workbench, budget, ties), *cls._beside_weights(workbench.adapter.sites, budget)

    @classmethod
    def check(cls, adapter: ModelAdapter, budget: Budget, ties: Ties = "none") -> None:
        """Refuse what can be refused before any work: all that `each` does, as if scales took no bytes.

        Args:
            ties: of the allocator itself, beside the budget's.

        Raises:
            LampQError: see `open`.
        """

        def weights_alone(plan: BitPlan) -> int:
            return packed_bytes(adapter.sites, plan, adapter.parameters(), 0)

        cls._of_budget(adapter, budget, weights_alone, ties)
        cls._beside_weights(adapter.sites, budget)

    @classmethod
    def _of_budget(
        cls, adapter: ModelAdapter, budget: Budget, packed: Callable[[BitPlan], int] | None, ties: Ties
    ) -> "SearchSpace":
        sites, layers = adapter.sites, [s for s in adapter.sites if s.allocated]

        def spent(chosen: Mapping[str, Bits]) -> int:
            return budget.spent(sites, budget.plan_of(sites, chosen), packed)

        def spent_at(bits: Mapping[str, int]) -> int:
            return spent({s.name: budget.bits_of(s, bits[s.name]) for s in layers})

        def spent_with_inputs(input_bits: Mapping[str, int]) -> int:
            """Weights at the target, inputs at these."""
            return equal_bits_spend(
                layers,
                budget.weight_bits,
                lambda bits: spent({name: Bits(own, input_bits[name]) for name, own in bits.items()}),
            )

        limit = budget.limit
        if limit is None and budget.in_pairs:  # two targets: both may lie between integers
            limit = equal_bits_spend(layers, budget.activation_bits, spent_with_inputs)
        elif limit is None:
            limit = equal_bits_spend(layers, budget.weight_bits, spent_at)
        chosen = budget.chosen(sites)
        limited = [s for s in chosen if s.parameters or budget.unit == "bops"]
        pins = pinned(chosen, budget.pins)
        return cls._of(limited, budget, pins, _bits_of(budget), spent, limit, UNITS[budget.unit], ties)

    @classmethod
    def _beside_weights(cls, sites: Sequence[Site], budget: Budget) -> list["SearchSpace"]:
        """The spaces of what a budget of weights says nothing of."""
        if budget.unit == "bops":
            return []
        chosen = budget.chosen(sites)
        spaces = [cls.of_inputs(chosen, budget)] if budget.independent else []
        return spaces + ([cls.of_operands(chosen, budget)] if budget.beyond_layers else [])

    @classmethod
    def of_average_bits(cls, layers: Sequence[Site], budget: Budget, ties: Ties = "none") -> "SearchSpace":
        """The weight bits of the 4N layers under a budget of average bits, which no more of a model needs to be known.

        Raises:
            LampQError: see `open`.
        """

        def spent(chosen: Mapping[str, Bits]) -> int:
            return sum(s.parameters * chosen[s.name].weight for s in layers)

        def spent_at(bits: Mapping[str, int]) -> int:
            return sum(s.parameters * bits[s.name] for s in layers)

        limit = equal_bits_spend(layers, budget.weight_bits, spent_at)
        pins = pinned(layers, budget.pins)
        return cls._of(layers, budget, pins, _bits_of(budget), spent, limit, UNITS["average_bits"], ties)

    @classmethod
    def of_inputs(cls, sites: Sequence[Site], budget: Budget) -> "SearchSpace":
        """The bits of inputs, where they are independent: ``sum e_i A_i <= a_t sum e_i``, e_i elements.

        What is not among the 4N layers counts in the limit at the bits that it would have otherwise.

        Args:
            sites: all that bits are chosen for.

        Raises:
            LampQError: see `open`.
        """
        layers = [s for s in sites if s.allocated]
        others = [s for s in sites if s.type in OUTSIDE_TYPES and s.type != "patch_embed"]

        def spent_at(bits: Mapping[str, int]) -> int:
            return sum(s.input_elements * bits[s.name] for s in layers)

        limit = equal_bits_spend(layers, budget.activation_bits, spent_at)
        limit += sum(budget.fixed_site_bits[1] * s.input_elements for s in others)
        with_inputs = [s for s in sites if s in layers or s in others]
        return cls._of_activations(with_inputs, sites, budget, limit, INPUT_BITS)

    @classmethod
    def of_operands(cls, sites: Sequence[Site], budget: Budget) -> "SearchSpace":
        """The bits of both operands of each attention matmul, on average over elements those that they would have
        otherwise.

        Args:
            sites: all that bits are chosen for.

        Raises:
            LampQError: see `open`.
        """
        matmuls = [s for s in sites if s.is_matmul]
        limit = sum(budget.fixed_site_bits[1] * (s.input_elements + s.second_input_elements) for s in matmuls)
        return cls._of_activations(matmuls, sites, budget, limit, OPERAND_BITS)

    @classmethod
    def _of_activations(
        cls, sites: Sequence[Site], chosen: Sequence[Site], budget: Budget, limit: int, unit: str
    ) -> "SearchSpace":
        def spent(bits: Mapping[str, Bits]) -> int:
            return sum((s.input_elements + s.second_input_elements) * bits[s.name].activation for s in sites)

        def options(site: Site, pin: int | None) -> dict[int, Bits]:
            return {b: Bits(None, b) for b in ([pin] if pin is not None else sorted(budget.of_inputs))}

        return cls._of(sites, budget, pinned(chosen, budget.pins), options, spent, limit, unit, "none")

    @classmethod
    def _of(
        cls,
        sites: Sequence[Site],
        budget: Budget,
        pins: Mapping[str, int],
        options: Options,
        spent: Callable[[Mapping[str, Bits]], int],
        limit: int,
        unit: str,
        ties: Ties,
    ) -> "SearchSpace":
        place = {s.name: index for index, s in enumerate(sites)}
        layers, alone = [s for s in sites if s.allocated], [[s] for s in sites if not s.allocated]
        together = [*(tied(layers, budget.ties, ties) if layers else ()), *alone]
        together.sort(key=lambda members: place[members[0].name])
        for members in together:
            check_bound(members, pins)
        may = {s.name: options(s, pins.get(s.name)) for s in sites}
        smallest = {name: next(iter(pairs.values())) for name, pairs in may.items()}
        floor = spent(smallest)
        if floor > limit:
            candidates = budget.of_inputs if unit in (INPUT_BITS, OPERAND_BITS) else budget.candidates
            raise LampQError(_infeasible(budget, candidates, floor, limit, unit, sum(s.parameters for s in sites)))
        groups = []
        for name, members in zip(group_names(together), together, strict=True):
            pairs = may[members[0].name]
            # What a group spends adds to what the others do, so it can be told with the others at their smallest.
            spending = {b: spent({**smallest, **{s.name: pairs[b] for s in members}}) - floor for b in pairs}
            if sorted(spending.values()) != list(spending.values()):
                raise RuntimeError(f"{name} spends fewer {unit} with more bits: {spending}")
            groups.append(Group(name, tuple(members), spending, members[0].name in pins, pairs))
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

    def comparable(self, scores: Scores, budget: Budget) -> dict[str, float]:
        """Each site's score at one and the same bits: they compare."""
        if not budget.beyond_layers and not budget.in_pairs:
            return at_the_target(scores, budget)
        at = {group.name: equal_number(group, int(budget.weight_bits), budget) for group in self.groups}
        return {  # of what is pinned outside the bit set there may be none
            s.name: scores[s.name][at[group.name]]
            for group in self.groups
            for s in group.layers
            if at[group.name] in scores.get(s.name, {})
        }

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

    def numbers_in(self, plan: BitPlan) -> dict[str, int]:
        """What a plan has of each group, by its name: bits, or what stands for a pair of them.

        Raises:
            StopIteration: it has what a group may not have.
        """
        found = {}
        for group in self.groups:
            here = plan[group.layers[0].name].bits
            found[group.name] = next(n for n, pair in group.pairs.items() if _says(pair, here))
        return found

    def pairs(self, bits: Sequence[int]) -> dict[str, Bits]:
        """Weight bits and input bits of each site, by name, from the bits of each group."""
        return {s.name: group.pairs[b] for group, b in zip(self.groups, bits, strict=True) for s in group.layers}

    def scored(self, metric: Metric, workbench: Workbench, budget: Budget) -> Scores:
        """What a metric gives for each layer or other site at whatever it may have, as `costs` takes it."""
        if not budget.beyond_layers:
            return metric.costs(metric.scores(workbench, budget))
        return self.by_number(metric.site_costs(metric.site_scores(workbench, budget, self.options)))

    @property
    def options(self) -> dict[str, list[Bits]]:
        """All weight bits and input bits that each site may have, by name; in the order of what they spend."""
        return {s.name: list(group.pairs.values()) for group in self.groups for s in group.layers}

    def by_number(self, scores: SiteScores) -> Scores:
        """Scores of weight bits and input bits as `costs` takes them: by what stands for both."""
        return {
            s.name: {number: scores[s.name][pair] for number, pair in group.pairs.items()}
            for group in self.groups
            for s in group.layers
        }

    def spent(self, group_bits: Mapping[str, int]) -> int:
        """What a plan spends above the smallest plan."""
        return sum(group.spending[group_bits[group.name]] for group in self.groups)

    def fits(self, bits: Sequence[int]) -> bool:
        """Whether the limit allows these bits of each group."""
        return self.spent({group.name: b for group, b in zip(self.groups, bits, strict=True)}) <= self.room

    def equal_bits(self, bits: int, budget: Budget) -> dict[str, int]:
        """Bits of each layer where all have `bits`, but those that are pinned; of what else bits are chosen for, those
        that it would have otherwise, or the next fewer that it may have.

        Raises:
            LampQError: that is above the budget.
        """
        chosen = {group.name: equal_number(group, bits, budget) for group in self.groups}
        if self.spent(chosen) > self.room:
            raise LampQError(
                f"weight_bits={bits}: equal bits together with pins and budget_limit spend "
                f"{self.spent(chosen) - self.room} {self.unit} too much; choose fewer, or an allocator that solves it"
            )
        return self.layer_bits(list(chosen.values()))


def equal_number(group: Group, bits: int, budget: Budget) -> int:
    """What stands for equal bits in a group: see `SearchSpace.equal_bits`."""
    site, (fixed_weight, fixed_activation) = group.layers[0], budget.fixed_site_bits
    if group.pinned:
        return group.bits[0]
    if site.allocated:
        wanted = budget.bits_at(bits)
    elif site.is_matmul:
        wanted = Bits(None, fixed_activation)
    else:
        wanted = Bits(fixed_weight, budget.image_bits if site.type == "patch_embed" else fixed_activation)
    return most_of(group, wanted)


def most_of(group: Group, wanted: Bits) -> int:
    """What stands for the wanted bits in a group, or for the most that are no more."""
    return max((n for n, pair in group.pairs.items() if no_more(pair, wanted)), default=group.bits[0])


def _says(pair: Bits, bits: Bits) -> bool:
    """Whether bits are those of a pair, which says nothing of what is None in it."""
    return all(said is None or said == has for said, has in zip(pair, bits, strict=True))


def together(parts: Iterable[Mapping[str, Bits]]) -> dict[str, Bits]:
    """Weight bits and input bits of each site from what was chosen under each limit, None where one says nothing."""
    chosen: dict[str, Bits] = {}
    for part in parts:
        for name, bits in part.items():
            before = chosen.get(name, Bits(None, None))
            chosen[name] = Bits(*(old if new is None else new for old, new in zip(before, bits, strict=True)))
    return chosen


def _bits_of(budget: Budget) -> Options:
    """What a site may have under the budget's own limit."""
    alone = budget.independent and not budget.in_pairs  # inputs are chosen under another limit
    pairs = sorted(product(budget.candidates, budget.of_inputs), key=lambda pair: (math.prod(pair), pair))

    def options(site: Site, pin: int | None) -> dict[int, Bits]:
        has_input = not site.is_matmul and site.type != "patch_embed"
        if budget.in_pairs and has_input:
            return {pin: Bits(pin, pin)} if pin is not None else {n: Bits(*p) for n, p in enumerate(pairs, 1)}
        may = [pin] if pin is not None else sorted(budget.of_inputs if site.is_matmul else budget.candidates)
        return {b: Bits(b, None) if alone and has_input else budget.bits_of(site, b) for b in may}

    return options


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
    own = {INPUT_BITS: "activation_bits", OPERAND_BITS: "fixed_site_bits"}
    key = own.get(unit, "bits" if budget.limit is None else "budget_limit")
    return (
        f"{key}: the limit of {limit} {unit} is below the {floor} of the smallest plan of "
        f"bit_set.bits={sorted(candidates)}{pins}; add a smaller bit-width{fewer} or raise {key}"
    )
