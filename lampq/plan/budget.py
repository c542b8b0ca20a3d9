"""Budgets: what is asked of an allocator, and what a plan really costs.

The paper's budget is the average bit-width over the parameters of the 4N layers (Problem 1, and the constraint of
the integer linear program): sum c_i B_i <= b_t sum c_i. Bytes and bit operations may be limited instead, and bits may
be chosen for more than these layers.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan, SitePlan
from lampq.plan.bits import Bits
from lampq.plan.groups import Pins, Ties
from lampq.plan.sites import ALLOCATE, Site

FULL_PRECISION_BITS = 32

UNITS = {"average_bits": "weight bits", "packed_bytes": "bytes", "bops": "bit operations"}
"""What a budget can limit, and what that is counted in."""


@dataclass(frozen=True)
class Budget:
    """The bits that a plan may spend, and the rules that turn chosen weight bits into a whole plan.

    Attributes:
        weight_bits: target average b_t over the parameters of the 4N layers (bits; may be fractional).
        activation_bits: bits of the layers' inputs (bits; equal to `weight_bits`: each layer's input has its
            layer's bits).
        candidates: the bit set B.
        activation_rule: when the two targets differ: ``fixed`` keeps all inputs at `activation_bits`, ``follow``
            adds the difference of the targets to the layer's weight bits. ``independent``: an allocator chooses the
            bits of inputs by themselves, `activation_bits` being their average over the 4N layers' input elements.
        fixed_site_bits: (weight bits, activation bits) of patch embedding, reduction, head, attention operands
            and, where they are quantized by themselves, other tensors.
        operand_bits: ``target`` keeps attention operands at `fixed_site_bits`; ``follow_qkv`` gives the operands of
            both attention matmuls the input bits of their block's qkv layer.
        unit: what is limited: ``average_bits`` (the paper's), ``packed_bytes`` of the whole model (see `packed_bytes`)
            or ``bops``, the bit operations of one image (see `realised_costs`).
        limit: how many bytes or bit operations; None is what equal bits at the target cost.
        ties: layers that share their bits.
        pins: layers whose bits are given, inside the bit set or not; they count in the budget.
        input_candidates: the bit set of inputs where they are independent; empty is B.
        image_bits: bits of the image that enters the patch embedding, the base quantizer's own; None is full precision.
        allocate: which sites bits are chosen for, one of `lampq.plan.sites.ALLOCATE`; all others keep the bits of the
            rules.
    """

    weight_bits: Fraction
    activation_bits: Fraction
    candidates: tuple[int, ...]
    activation_rule: str
    fixed_site_bits: tuple[int, int]
    operand_bits: str
    unit: str = "average_bits"
    limit: int | None = None
    ties: Ties = "none"
    pins: Pins = ()
    input_candidates: tuple[int, ...] = ()
    image_bits: int | None = None
    allocate: str = "layers"

    @property
    def independent(self) -> bool:
        """Whether inputs have bits of their own."""
        return self.activation_rule == "independent"

    @property
    def beyond_layers(self) -> bool:
        """Whether bits are chosen for more than the 4N layers."""
        return self.allocate != "layers"

    @property
    def in_pairs(self) -> bool:
        """Whether (weight bits, input bits) of a layer are chosen together, out of all pairs: one limit is on both."""
        return self.independent and self.unit == "bops"

    def chosen(self, sites: Iterable[Site]) -> list[Site]:
        """The sites whose bits are chosen, in the order of execution."""
        return [s for s in sites if s.type in ALLOCATE[self.allocate]]

    def unbound(self) -> "Budget":
        """The budget of a plan that nobody searches: only targets and rules are left."""
        rule = "fixed" if self.independent else self.activation_rule
        plain = {"unit": "average_bits", "limit": None, "ties": "none", "pins": (), "input_candidates": ()}
        return replace(self, activation_rule=rule, allocate="layers", **plain)

    def input_bits(self, weight_bits: int) -> int:
        """Bits of a layer's input when its weights have `weight_bits`, where it is not chosen by itself."""
        if self.weight_bits == self.activation_bits and not self.independent:
            return weight_bits
        if self.activation_rule != "follow":
            return int(self.activation_bits)
        return max(1, min(16, weight_bits + int(self.activation_bits - self.weight_bits)))

    def bits_at(self, weight_bits: int) -> Bits:
        """Bits of a layer whose weights have `weight_bits`."""
        return Bits(weight_bits, self.input_bits(weight_bits))

    def bits_of(self, site: Site, bits: int) -> Bits:
        """Both bit-widths of a site whose weights, or of a matmul whose operands, have `bits`."""
        if site.is_matmul:
            return Bits(None, bits)
        return Bits(bits, self.image_bits) if site.type == "patch_embed" else self.bits_at(bits)

    @property
    def of_inputs(self) -> tuple[int, ...]:
        """The bit set of inputs and operands that are chosen by themselves."""
        return self.input_candidates or self.candidates

    def total(self, sizes: list[int]) -> int:
        """The budget in weight bits, floor(b_t sum c_i), for layers of the given sizes c_i."""
        return math.floor(self.weight_bits * sum(sizes))

    def spent(self, sites: tuple[Site, ...], plan: BitPlan, packed: Callable[[BitPlan], int]) -> int:
        """What a plan spends of the budget, in its unit; for ``average_bits`` weight bits of the sites that bits are
        chosen for.

        Args:
            packed: size of the packed model in bytes, which takes more to know than a plan.
        """
        if self.unit == "packed_bytes":
            return packed(plan)
        if self.unit == "bops":
            return int(realised_costs(sites, plan)["bops"])
        weight_bits = {s.name: s.weight_bits for s in plan.sites}
        return sum(s.parameters * weight_bits[s.name] for s in self.chosen(sites) if s.parameters)

    def plan(
        self,
        sites: tuple[Site, ...],
        site_bits: Mapping[str, int],
        origin: dict | None = None,
        input_bits: Mapping[str, int] | None = None,
    ) -> BitPlan:
        """The whole plan in which the 4N layers (and other sites, where they are named) have the given bits.

        Args:
            site_bits: weight bits of each layer, by name; of other sites as `bits_of` has them.
            origin: where the plan comes from.
            input_bits: bits of each layer's input, by name; None: by the rules.
        """
        chosen = {s.name: self.bits_of(s, site_bits[s.name]) for s in sites if s.allocated or s.name in site_bits}
        if input_bits is not None:
            chosen |= {name: Bits(chosen[name].weight, bits) for name, bits in input_bits.items()}
        return self.plan_of(sites, chosen, origin)

    def plan_of(self, sites: tuple[Site, ...], chosen: Mapping[str, Bits], origin: dict | None = None) -> BitPlan:
        """The whole plan in which the named sites, the 4N layers at least, have the given bits of both kinds."""
        fixed_weight, fixed_activation = self.fixed_site_bits
        qkv_bits = {s.block: chosen[s.name].activation for s in sites if s.type == "qkv"}
        entries = []
        for site in sites:
            if site.allocated or site.name in chosen:
                bits = chosen[site.name]
            elif site.is_matmul:
                bits = None, qkv_bits[site.block] if self.operand_bits == "follow_qkv" else fixed_activation
            elif site.is_tensor:
                bits = None, fixed_activation
            elif site.type == "patch_embed":
                bits = fixed_weight, self.image_bits
            else:
                bits = fixed_weight, fixed_activation
            entries.append(SitePlan(site.name, site.type, site.block, site.parameters, *bits, site.allocated))
        return BitPlan(tuple(entries), self.to_json(), origin or {})

    def check_feasible(self, sites: tuple[Site, ...], plan: BitPlan) -> None:
        """Refuse a plan over the budget.

        Raises:
            LampQError: the plan's average is above the target.
        """
        sizes = [s.parameters for s in sites if s.allocated]
        spent = sum(s.parameters * s.weight_bits for s in plan.sites if s.allocated)
        if spent > self.total(sizes):
            average = spent / sum(sizes)
            raise LampQError(
                f"the plan spends {average:.4f} bits on average, over weight_bits={float(self.weight_bits)}"
            )

    def to_json(self) -> dict:
        """All of it, but what is as in the paper; part of a run's fingerprint."""
        ties = self.ties if isinstance(self.ties, str) else [list(group) for group in self.ties]
        beyond_the_paper = {
            "unit": self.unit if self.unit != "average_bits" else None,
            "limit": self.limit,
            "ties": ties if ties != "none" else None,
            "pins": [list(pin) for pin in sorted(self.pins)] or None,
            "input_candidates": list(self.input_candidates) or None,
            "image_bits": self.image_bits,
            "allocate": self.allocate if self.beyond_layers else None,
        }
        return {
            "weight_bits": float(self.weight_bits),
            "activation_bits": float(self.activation_bits),
            "candidates": list(self.candidates),
            "activation_rule": self.activation_rule,
            "fixed_site_bits": list(self.fixed_site_bits),
            "operand_bits": self.operand_bits,
            **{key: value for key, value in beyond_the_paper.items() if value is not None},
        }


def default_bit_set(weight_bits: Fraction) -> tuple[int, ...]:
    """The bit set B for a target, where none is chosen: {2..5} at 3 bits, {2..6} at 4, {6..10} at 8."""
    lowest = 1 if weight_bits <= 2 else 2
    return tuple(range(max(lowest, math.floor(weight_bits) - 2), math.ceil(weight_bits) + 3))


def realised_costs(sites: tuple[Site, ...], plan: BitPlan) -> dict[str, float]:
    """What a plan costs, in bits and bit operations; full precision counts 32 bits.

    Returns:
        average_weight_bits: over the parameters of the 4N layers (the paper's figure);
        average_weight_bits_all: over all weights, patch embedding, reductions and head included;
        average_activation_bits: over the input elements of all linear layers of one image;
        average_operand_bits: over the elements of the attention operands of one image;
        bops: sum of MACs x weight bits x activation bits of one image (for a matmul: both operands' bits).
    """
    bits = {s.name: s.bits for s in plan.sites}

    def of(value: int | None) -> int:
        return FULL_PRECISION_BITS if value is None else value

    def average(pairs: list[tuple[int, int]]) -> float:
        total = sum(count for count, _ in pairs)
        return sum(count * value for count, value in pairs) / total if total else float("nan")

    weights = [s for s in sites if s.parameters]
    linears = [s for s in weights if s.type != "patch_embed"]
    matmuls = [s for s in sites if s.is_matmul]
    bops = 0
    for site in sites:
        weight, activation = of(bits[site.name][0]), of(bits[site.name][1])
        bops += site.macs * activation * (activation if site.is_matmul else weight)
    return {
        "average_weight_bits": average([(s.parameters, of(bits[s.name].weight)) for s in weights if s.allocated]),
        "average_weight_bits_all": average([(s.parameters, of(bits[s.name].weight)) for s in weights]),
        "average_activation_bits": average([(s.input_elements, of(bits[s.name].activation)) for s in linears]),
        "average_operand_bits": average(
            [(s.input_elements + s.second_input_elements, of(bits[s.name].activation)) for s in matmuls]
        ),
        "bops": bops,
    }


def packed_bytes(sites: tuple[Site, ...], plan: BitPlan, all_parameters: int, quantizer_parameters: int) -> int:
    """Size of the model packed at the plan's bits, in bytes (computed, nothing is exported).

    Args:
        all_parameters: number of parameters of the full-precision model.
        quantizer_parameters: number of scales, zero points and log bases of the plan's entries; each counts 32 bits,
            as do biases, LayerNorms and whatever else is not a quantized weight.
    """
    bits = {s.name: s.weight_bits for s in plan.sites}
    size = 0
    for site in sites:
        if site.parameters:
            width = FULL_PRECISION_BITS if bits[site.name] is None else bits[site.name]
            size += math.ceil(site.parameters * width / 8)
    rest = all_parameters - sum(s.parameters for s in sites)
    return size + 4 * (rest + quantizer_parameters)
