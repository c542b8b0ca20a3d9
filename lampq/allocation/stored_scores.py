"""Scored once, solved for any budget: the costs that an allocator left in its plan, by layer and bits."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from lampq.allocation.search_space import SearchSpace
from lampq.allocation.solvers.allocation_problem import AllocationProblem
from lampq.allocation.solvers.dynamic_program import optimal_plan
from lampq.allocation.solvers.relaxation import Relaxation
from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import UNITS, Budget
from lampq.plan.sites import Site, module_of
from lampq.sensitivity.scores import Scores, at_the_target
from lampq.sensitivity.trace import penalized_costs

HISTORY = (
    "swaps",
    "rounds",
    "steps",
    "steps_by_the_screen_alone",
    "frontier",
    "resolved",
    "objective",
    "solver",
    "initial_bits",
)
"""What an origin tells of one budget; the rest are scores, which serve every budget."""


@dataclass(frozen=True)
class StoredScores:
    """What a plan's allocator weighed against each other.

    Attributes:
        metric: what a score is, in a word or two.
        plan: the plan.
        budget: its budget.
        by_bits: score by layer and bits; None where a formula gives it at any bits.
        omega: Omega_i by layer, where costs are gamma^-B Omega_i.
        gamma: penalizing factor of that formula.
        ties: of the allocator itself: ``modules`` where a module has one score, which stands for all its layers.
    """

    metric: str
    plan: BitPlan
    budget: Budget
    by_bits: Scores | None = None
    omega: dict[str, float] | None = None
    gamma: float | None = None
    ties: str = "none"

    @property
    def scored_bits(self) -> list[int] | None:
        """Bit-widths that every layer has a score at; None: all."""
        return None if self.by_bits is None else sorted(set.intersection(*map(set, self.by_bits.values())))

    def space(self, budget: Budget | None = None) -> SearchSpace:
        """What was chosen among: layers in groups that share their bits.

        Raises:
            LampQError: no plan keeps the budget.
        """
        layers = [s for s in sites_of(self.plan) if s.allocated]
        return SearchSpace.of_average_bits(layers, budget or self.budget, self.ties)

    def costs(self, space: SearchSpace) -> np.ndarray:
        """``[groups, bits]`` float64: what the solver adds up.

        Raises:
            LampQError: a bit-width was not scored.
        """
        bits = sorted({b for group in space.groups if not group.pinned for b in group.bits})
        if self.by_bits is None:
            return space.costs(penalized_costs(self.omega, bits, self.gamma))
        for value in bits:
            if value not in self.scored_bits:
                raise LampQError(
                    f"bit_set={bits}: the plan has no scores at {value} bits, only at {self.scored_bits}; choose "
                    "among these, or score again with a wider bit_set"
                )
        share = 2 if self.ties == "modules" else 1  # the two layers of a module share its one score
        return space.costs({name: {b: row[b] / share for b in row} for name, row in self.by_bits.items()})

    def price(self) -> float:
        """Cost that one weight bit more would save, at which the solver stopped (its Lagrange multiplier).

        That of the relaxed problem, in which layers may mix neighbouring bit-widths.

        Raises:
            LampQError: no plan keeps the budget.
        """
        space = self.space()
        problem = space.problem(self.costs(space))
        row, column = np.unravel_index(int(space.spending.argmax()), space.spending.shape)
        spent = int(space.spending[row, column])
        return Relaxation(problem).price * int(problem.units[row, column]) / spent if spent else 0.0

    def solve(self, weight_bits: Fraction, candidates: tuple[int, ...] | None = None) -> BitPlan:
        """The plan of least total cost at another target, exactly (see `solve_dynamic_program`).

        Args:
            weight_bits: the target average, in bits.
            candidates: bit set; None is the plan's.

        Raises:
            LampQError: a bit-width was not scored, or no plan keeps the budget.
        """
        budget = at_target(self.budget, weight_bits, candidates)
        space = self.space(budget)
        problem: AllocationProblem = space.problem(self.costs(space))
        choice = optimal_plan(problem)
        origin = {key: value for key, value in self.plan.origin.items() if key not in HISTORY}
        origin |= {"solver": "dynamic program", "objective": problem.objective(choice), "scores_of": self.plan.key()}
        plan = budget.plan(sites_of(self.plan), space.layer_bits(problem.bits_of(choice)), origin)
        return plan.with_scores(self.omega if self.by_bits is None else at_the_target(self.by_bits, budget))


def stored_scores(plan: BitPlan) -> StoredScores:
    """The scores in a plan: LampQ's Omega with its gamma, scores by layer and bits, or VT-PTQ's by module and bits.

    Raises:
        LampQError: its allocator scored nothing that adds up, or its budget counts what a plan file does not tell.
    """
    origin, layers = plan.origin, [s for s in plan.sites if s.allocated]
    name, gamma = origin.get("allocator", "unknown"), origin.get("settings", {}).get("gamma")
    for key, metric in (("scores", name), ("screen", f"{name}'s screen")):
        if key in origin:
            return StoredScores(metric, plan, budget_of(plan), {s.name: _by_bits(origin[key][s.name]) for s in layers})
    if "omega" in origin:
        modules = {s.name: module_of(s) for s in layers}
        missing = [name for name in modules.values() if name not in origin["omega"]]
        if missing:
            raise LampQError(f"the plan has no score of {missing[0]} in origin.omega; take a plan.json of a run")
        rows = {name: _by_bits(origin["omega"][module]) for name, module in modules.items()}
        return StoredScores(f"{name}, by module", plan, budget_of(plan), rows, ties="modules")
    if gamma is not None and all(s.score is not None for s in layers):
        return StoredScores("Omega", plan, budget_of(plan), omega={s.name: s.score for s in layers}, gamma=gamma)
    raise LampQError(
        f"the plan has no scores that add up: allocator={name} left none; take a plan of a search that scores layers"
    )


def at_target(budget: Budget, weight_bits: Fraction, candidates: tuple[int, ...] | None = None) -> Budget:
    """The budget at another target of the weights; inputs stay as far from it as they were, or where they are fixed.

    What lies outside the layers goes with the targets, where it was at theirs.
    """
    if budget.weight_bits == budget.activation_bits:
        activation_bits = weight_bits
    elif budget.activation_rule == "follow":
        activation_bits = budget.activation_bits + weight_bits - budget.weight_bits
    else:
        activation_bits = budget.activation_bits
    candidates = budget.candidates if candidates is None else tuple(sorted(set(candidates)))
    if candidates[-1] < weight_bits:
        raise LampQError(
            f"bits={float(weight_bits):g}: cannot be spent on bit_set={list(candidates)}; add "
            f"{math.ceil(weight_bits)} or lower the target"
        )
    targets = (budget.weight_bits, budget.activation_bits), (weight_bits, activation_bits)
    old, new = (tuple(map(math.floor, both)) for both in targets)
    fixed = new if budget.fixed_site_bits == old else budget.fixed_site_bits
    changes = {"weight_bits": weight_bits, "activation_bits": activation_bits, "fixed_site_bits": fixed}
    return replace(budget, candidates=candidates, **changes)


def budget_of(plan: BitPlan) -> Budget:
    """The budget that a plan was made for.

    Raises:
        LampQError: the plan does not say, or it counts what a plan file does not tell.
    """
    asked = plan.budget
    if asked.get("unit", "average_bits") != "average_bits":
        raise LampQError(
            f"the plan's budget counts {UNITS[asked['unit']]}, of which a plan file does not tell; take a plan whose "
            "budget is of average bits"
        )
    if asked.get("activation_rule") == "independent":
        raise LampQError("the plan's inputs have bits of their own (activation_rule=independent); take another plan")
    if asked.get("allocate", "layers") != "layers":
        raise LampQError(
            f"the plan's bits are chosen for more than its layers (allocate={asked['allocate']}), which have no common "
            "scores by weight bits; take a plan with allocate=layers"
        )
    ties = asked.get("ties", "none")
    try:
        return Budget(
            weight_bits=Fraction(str(asked["weight_bits"])),
            activation_bits=Fraction(str(asked["activation_bits"])),
            candidates=tuple(asked["candidates"]),
            activation_rule=asked["activation_rule"],
            fixed_site_bits=tuple(asked["fixed_site_bits"]),
            operand_bits=asked["operand_bits"],
            ties=ties if isinstance(ties, str) else tuple(tuple(group) for group in ties),
            pins=tuple((word, bits) for word, bits in asked.get("pins", [])),
            image_bits=asked.get("image_bits"),
        )
    except KeyError as error:
        raise LampQError(
            f"the plan does not name its budget ({error} is missing); take a plan.json of a run"
        ) from error


def sites_of(plan: BitPlan) -> tuple[Site, ...]:
    """The plan's sites as sites of a model, as far as a budget needs them; multiplications are not counted."""
    return tuple(Site(s.name, s.type, s.block, s.parameters, 0, 0) for s in plan.sites)


def _by_bits(row: dict[str, float]) -> dict[int, float]:
    return {int(bits): value for bits, value in row.items()}
