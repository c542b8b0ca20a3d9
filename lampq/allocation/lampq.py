"""LampQ: type-aware Fisher-based sensitivity, integer linear program, iterative bit update (Algorithm 1)."""

import logging
import math
from dataclasses import dataclass, replace
from typing import Literal

from lampq.allocation.base import Allocator
from lampq.allocation.iterative_update import (
    Estimates,
    UpdateRules,
    by_reconstruction,
    by_scores,
    iterative_update,
)
from lampq.allocation.search_space import SearchSpace, equal_number
from lampq.allocation.solvers.dynamic_program import solve_dynamic_program
from lampq.allocation.solvers.greedy_ascent import solve_greedy
from lampq.allocation.solvers.ilp import solve_ilp
from lampq.errors import LampQError
from lampq.limits import fraction
from lampq.parts import setting
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.plan.sites import LAYER_TYPES
from lampq.sensitivity.context import Context
from lampq.sensitivity.expected_error import expected_ratios, paper_ratios
from lampq.sensitivity.metric import Metric, metric_name, metric_with, metrics, settings_of
from lampq.sensitivity.scores import Scores, by_text, falling
from lampq.sensitivity.trace import Trace
from lampq.sensitivity.type_scaling import TypeScaling, sample_blocks, type_scaling
from lampq.tasks.score import Accept
from lampq.workbench import Workbench

log = logging.getLogger(__name__)

SOLVERS = {"ilp": solve_ilp, "dynamic_program": solve_dynamic_program, "greedy": solve_greedy}
REMEDIES = {
    "type_scaling": "type_scaling=false, or metric=fisher",
    "resolve": "resolve=0, or metric=fisher",
    "swap_estimates": "swap_estimates=reconstruction",
    "iterative_update": "iterative_update=true, or metric=output_fisher with type_scaling=false",
}
"""What to choose where bits are chosen for more than layers, and the metric cannot do it."""
RATIOS = {"recomputed": expected_ratios, "paper": paper_ratios, "measured": lambda: None}


@dataclass(frozen=True)
class Assignment:
    """An initial assignment.

    Attributes:
        plan: the plan.
        costs: what Problem 1 added up, by layer and bits; None where nothing was.
        omega: Omega_l of each layer (of a metric by bits, its cost at the target).
    """

    plan: BitPlan
    costs: Scores | None
    omega: dict[str, float]


class LampQ(Allocator):
    """Layer-wise mixed precision bits.

    With the defaults it is the paper's Algorithm 1. Other metrics than the Fisher trace take its place in Omega: a
    trace as it does, ``alpha_t tr``, at B bits times gamma^-B; one that is measured at each bit-width as ``alpha_t
    S_i(B)``, without gamma, and in alpha_t its value at beta bits stands for the trace, so that a type's mean still
    is its drop A_t there.

    Where bits are chosen for more than the 4N layers (``allocate``), Problem 1 has all of these sites where the metric
    scores them (`Metric.scores_sites`). An operand has no weights, and no trace: with a trace, Problem 1 is that of the
    layers, all else stays at its fixed bits, and the update swaps bits between whatever there is, by reconstruction
    errors (Lemma 3 holds of any product of two quantized operands).

    Args:
        mu: fraction of the N blocks whose layers are quantized one at a time for alpha_t, in (0, 1].
        beta: bits of that single layer.
        gamma: penalizing factor; a layer's error at B bits is gamma^-B Omega_i.
        type_scaling: idea I2; without it alpha_t = 1 for every type.
        start: where the update starts: ``ilp`` (Problem 1) or ``uniform`` (equal bits; no metric, no program: what
            idea I3 can do by itself).
        iterative_update: idea I3; without it the initial assignment is the answer.
        solver: ``ilp`` (PuLP's CBC, checked against the dynamic program), ``dynamic_program``, or ``greedy`` (from
            the fewest bits up, always the step that lowers the cost most for what it spends).
        drop: what A_t is measured by: ``accuracy``, ``loss``, or ``auto`` (loss where accuracy is within noise).
        type_traces: tr(F_t) of line 5: of the ``full_precision`` model, or ``at_beta``, as it is printed: in the model
            whose sampled layers of type t are at beta bits. Omega's own traces stay those of full precision.
        trace_per: a trace is that of the ``layer``, or its mean per ``parameter``, which compares layers of one type
            that differ in size (Swin).
        drop_error: what noise ``auto`` looks at: that of the ``images`` of D, or of ``blocks_and_images``, since the
            sampled blocks stand for all of them.
        labels: labels of the Fisher trace: ``sampled`` from the model (Lemma 2) or the ``dataset``'s; None: sampled,
            for a detector the data set's.
        gain_ratios: rho_B: ``recomputed`` (Lemma 3 in closed form), ``paper`` (Table 2 as printed), or ``measured``.
        swaps: ``feasible`` pairs within the budget, or the ``literal`` pair of Algorithm 1, lines 19-21.
        additions: besides feasible pairs, single layers whose next bits fit in what the plan leaves of the budget.
        accept: when a plan is better: ``accuracy`` (more images of D right, then a lower mean loss; as printed),
            ``loss`` (a lower mean loss), or ``paired`` (a mean loss lower by more than `accept_factor` standard errors
            of the paired difference).
        accept_factor: see `accept`.
        stop_early: standard errors of the paired loss; a swapped plan that is worse by more than these after a part
            of D is given up. None scores every plan on all of D.
        try_next_pairs: further pairs tried after one that failed, before the update stops (the paper: 0, at which a
            single noisy failure ends it).
        maximum_swaps: accepted swaps at most; None allows 4N, or as many as there are sites that bits are chosen for.
        max_evaluations: plans scored on D in the update after the first one, at most; None is no limit.
        metric: name of a metric (`lampq.sensitivity.metric`); the paper's is ``fisher``. Labels and gamma are handed
            to those that have them.
        resolve: how often the metric is measured again in the model at the last plan, and Problem 1 solved again; the
            best of these plans on D goes on. The paper has none; a summary of it by others says 2 or 3.
        swap_estimates: what orders the swaps: ``reconstruction`` errors of the current plan with `gain_ratios`, or the
            differences of the ``metric`` (times alpha_t) that Problem 1 was solved with, or the changes of the loss
            that are predicted in ``context``, in the model at the current plan (`lampq.sensitivity.context`).
    """

    name = "lampq"
    chooses_sites = True

    mu: float = setting(0.5, check=fraction, key="lampq.mu")
    beta: int = setting(2, minimum=1, maximum=16, key="lampq.beta")
    gamma: float = setting(4, above=1, key="lampq.gamma")
    type_scaling: bool = True
    start: Literal["ilp", "uniform"] = setting("ilp", identity="changed")
    iterative_update: bool = True
    solver: str = setting("ilp", options=SOLVERS)
    drop: Literal["auto", "accuracy", "loss"] = "auto"
    type_traces: Literal["full_precision", "at_beta"] = setting("full_precision", identity="changed")
    trace_per: Literal["layer", "parameter"] = setting("layer", identity="changed")
    drop_error: Literal["images", "blocks_and_images"] = setting("images", identity="changed")
    labels: Literal["sampled", "dataset"] | None = "sampled"
    gain_ratios: str = setting("recomputed", options=RATIOS)
    swaps: Literal["feasible", "literal"] = "feasible"
    additions: bool = setting(False, identity="changed")
    accept: Accept = setting("accuracy", identity="changed")
    accept_factor: float = setting(1.0, at_least=0, identity="changed")
    stop_early: float | None = setting(None, above=0, identity="changed")
    try_next_pairs: int = setting(4, minimum=0)
    maximum_swaps: int | None = setting(None, minimum=0)
    max_evaluations: int | None = setting(None, minimum=0, key="max_evaluations", identity="changed")
    metric: str = setting("fisher", check=metric_name, identity="changed")
    resolve: int = setting(0, minimum=0, identity="changed")
    swap_estimates: Literal["reconstruction", "metric", "context"] = setting("reconstruction", identity="changed")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_plans = [name for name, metric in metrics().items() if metric.at_plans]
        if self.resolve and self.metric not in at_plans:
            raise LampQError(
                f"allocator.resolve={self.resolve}: allocator.metric={self.metric} is not measured in a quantized "
                f"model; choose {' or '.join(at_plans)}, or resolve=0"
            )
        if self.type_traces == "at_beta" and self.metric != "fisher":
            raise LampQError(
                f"allocator.type_traces=at_beta: allocator.metric={self.metric} has no trace in a quantized model; "
                "choose metric=fisher, or type_traces=full_precision"
            )
        if self.trace_per == "parameter" and not issubclass(metrics()[self.metric], Trace):
            raise LampQError(
                f"allocator.trace_per=parameter: allocator.metric={self.metric} is no trace; choose "
                f"{' or '.join(name for name, metric in metrics().items() if issubclass(metric, Trace))}, or "
                "trace_per=layer"
            )
        if self.start == "uniform" and self.swap_estimates == "metric":
            raise LampQError(
                "allocator.swap_estimates=metric: with allocator.start=uniform no metric is measured; choose "
                "reconstruction, or start=ilp"
            )

    def scores_all(self, budget: Budget) -> bool:
        """Whether Problem 1 has more than the 4N layers."""
        return budget.beyond_layers and self.start == "ilp" and metrics()[self.metric].scores_sites

    def check_chosen(self, budget: Budget) -> None:
        super().check_chosen(budget)
        if not budget.beyond_layers:
            return
        if self.scores_all(budget):
            wrong = {"type_scaling": self.type_scaling, "resolve": self.resolve}
            why = f"metric={self.metric} scores more than the layers, of whose types alpha_t is"
        else:
            wrong = {"swap_estimates": self.swap_estimates == "metric", "iterative_update": not self.iterative_update}
            why = f"metric={self.metric} scores layers alone, and only the update changes other bits"
        for name, is_wrong in wrong.items():
            if is_wrong:
                value = getattr(self, name)
                raise LampQError(
                    f"allocator.{name}={str(value).lower()}: with allocate={budget.allocate}, {why}; choose "
                    f"{REMEDIES[name]}, or allocate=layers"
                )

    def needed_bits(self) -> list[tuple[str, int]]:
        return [] if "beta" in self.unused() else [("lampq.beta", self.beta)]

    def unused(self) -> set[str]:
        """Options of an idea that is switched off, or that the metric does not have."""
        unused = {"gamma", "labels"} - settings_of(self.metric)
        if self.solver != "greedy":
            unused |= {"solver"}  # one optimum, whoever finds it
        if self.start == "uniform":
            unused |= {"mu", "beta", "gamma", "type_scaling", "drop", "labels", "metric", "resolve", "solver"}
            unused |= {"type_traces", "trace_per"}
        if not self.type_scaling:
            unused |= {"mu", "beta", "drop", "type_traces"}
        if self.drop != "auto" or "drop" in unused:
            unused |= {"drop_error"}
        if not self.iterative_update:
            unused |= {"gain_ratios", "swaps", "try_next_pairs", "maximum_swaps", "max_evaluations", "swap_estimates"}
            unused |= {"additions", "stop_early"}
        if self.swaps == "literal":
            unused |= {"additions"}
        if not self.iterative_update and (not self.resolve or "resolve" in unused):
            unused |= {"accept"}
        if self.accept != "paired" or "accept" in unused:
            unused |= {"accept_factor"}
        if self.swap_estimates != "reconstruction":
            unused |= {"gain_ratios"}
        return unused

    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Algorithm 1.

        Raises:
            LampQError: no plan keeps the budget, or the base quantizer is not defined at a bit-width needed.
        """
        workbench.bank.check_bits("bit_set", *budget.candidates)
        # Step 1: initial assignment by the type-aware metric.
        if self.start == "uniform":
            initial = self.equal_bits(workbench, budget)
        else:
            measured = self.measured(workbench, budget)
            scaling = self.scaled_types(workbench, budget, measured)  # lines 1 to 7
            initial = self.assigned(workbench, budget, measured, scaling)  # lines 8 to 11
            if self.resolve:
                initial = self.resolved(workbench, budget, scaling, initial)
        plan = initial.plan
        plan.origin["initial_bits"] = plan.layer_bits()
        workbench.bank.calibrate(plan)  # line 12

        # Step 2: error-based iterative updates.
        if self.iterative_update:
            estimates, rules = self.estimates(workbench, budget, initial), self.rules(workbench, budget)
            plan, swaps = iterative_update(plan, workbench, budget, estimates, rules)  # lines 13 to 26
            plan.origin["swaps"] = swaps
            log.info("iterative update: %d of %d swaps accepted", sum(s["accepted"] for s in swaps), len(swaps))
        return plan.with_scores(initial.omega)  # line 27

    def estimates(self, workbench: Workbench, budget: Budget, initial: Assignment) -> Estimates:
        """What orders the swaps."""
        if self.swap_estimates == "reconstruction":
            return by_reconstruction(workbench, budget, RATIOS[self.gain_ratios]())
        if self.swap_estimates == "metric":
            return by_scores(lambda space, plan: initial.costs)
        metric = Context(monotone=False)
        if not budget.beyond_layers:
            return by_scores(lambda space, plan: metric.scores(workbench, budget, plan))
        return by_scores(
            lambda space, plan: space.by_number(metric.site_scores(workbench, budget, space.options, plan))
        )

    def rules(self, workbench: Workbench, budget: Budget) -> UpdateRules:
        """Which swaps are tried and which plans are kept."""
        sites = len(budget.chosen(workbench.adapter.sites))
        return UpdateRules(
            literal=self.swaps == "literal",
            try_next_pairs=self.try_next_pairs,
            maximum_swaps=sites if self.maximum_swaps is None else self.maximum_swaps,
            max_evaluations=self.max_evaluations,
            accept=self.accept,
            accept_factor=self.accept_factor,
            additions=self.additions,
            stop_early=self.stop_early,
        )

    @property
    def measure(self) -> Metric:
        """The metric."""
        return metric_with(self.metric, labels=self.labels, gamma=self.gamma)

    def measured(self, workbench: Workbench, budget: Budget, plan: BitPlan | None = None) -> dict:
        """tr(F_l) of every layer, or another trace; of other metrics the scores at each bit-width of the bit set.

        Args:
            plan: measured in the model at this plan; None: in full precision.
        """
        at_plan = {} if plan is None else {"plan": plan}
        if isinstance(self.measure, Trace):
            traces = self.measure.traces(workbench, **at_plan)
            sizes = {s.name: s.parameters if self.trace_per == "parameter" else 1 for s in workbench.layers}
            return {name: trace / sizes[name] for name, trace in traces.items()}
        if self.scores_all(budget):
            return SearchSpace.open(workbench, budget).scored(self.measure, workbench, budget)
        if self.type_scaling:
            budget = replace(budget, candidates=tuple(sorted({*budget.candidates, self.beta})))
        return self.measure.scores(workbench, budget, **at_plan)

    def scaled_types(self, workbench: Workbench, budget: Budget, measured: dict) -> TypeScaling | None:
        """Lines 1 to 7: alpha_t of every type; None when idea I2 is switched off."""
        if not self.type_scaling:
            return None
        if not isinstance(self.measure, Trace):
            measured = {name: row[self.beta] for name, row in measured.items()}
        workbench.bank.check_bits("lampq.beta", self.beta)
        blocks = sample_blocks(workbench.adapter.blocks, self.mu, workbench.seed)  # line 2
        for type in () if isinstance(self.measure, Trace) else LAYER_TYPES:
            if sum(measured[s.name] for s in workbench.layers if s.type == type and s.block in blocks) <= 0:
                raise LampQError(
                    f"allocator.metric={self.metric}: its mean over the {type} layers at lampq.beta={self.beta} bits "
                    "is 0 or less, and alpha_t is a ratio to it; choose allocator.type_scaling=false, or another beta"
                )
        if self.type_traces == "at_beta":
            measured = self.traces_at_beta(workbench, budget, blocks)
        return type_scaling(workbench, budget, measured, blocks, self.beta, self.drop, self.drop_error)

    def traces_at_beta(self, workbench: Workbench, budget: Budget, blocks: tuple[int, ...]) -> dict[str, float]:
        """Line 5 as printed: traces of the sampled layers of each type, all of them at beta bits, straight through."""
        found = {}
        for type in LAYER_TYPES:
            sampled = {
                s.name: budget.bits_at(self.beta) for s in workbench.layers if s.type == type and s.block in blocks
            }
            plan = BitPlan.full_precision(workbench.adapter.sites).with_bits(sampled)
            workbench.bank.calibrate(plan)
            traces = self.measured(workbench, budget, plan)
            found |= {name: traces[name] for name in sampled}
        return found

    def assigned(self, workbench: Workbench, budget: Budget, measured: dict, scaling: TypeScaling | None) -> Assignment:
        """Lines 8 to 11: ``Omega_l = alpha_t tr(F_l)``, the plan of least ``sum_l gamma^-B Omega_l`` (Problem 1)."""
        space = SearchSpace.open(workbench, budget)
        alpha = {s.name: scaling.alpha[s.type] if scaling else 1.0 for s in workbench.layers}
        if isinstance(self.measure, Trace):
            omega = {name: alpha[name] * trace for name, trace in measured.items()}
            costs, told = self.measure.penalized(omega, budget), {f"{self.metric}_traces": measured}
        else:
            may = measured if self.scores_all(budget) else dict.fromkeys(measured, budget.candidates)
            rows = {name: {b: alpha.get(name, 1.0) * row[b] for b in may[name]} for name, row in measured.items()}
            costs = {name: falling(row) for name, row in rows.items()}
            omega, told = space.comparable(costs, budget), {"scores": by_text(costs)}
        costs |= unmoved(space, budget, costs)
        found = space.solved(costs, SOLVERS[self.solver])
        log.info("initial assignment by %s, objective %.6g", found.solver, found.objective)
        origin = {
            "allocator": self.name,
            "settings": self.settings(),
            "solver": found.solver,
            "objective": found.objective,
            **told,
            "type_scaling": scaling.to_json() if scaling else None,
        }
        return Assignment(budget.plan(workbench.adapter.sites, space.layer_bits(found.bits), origin), costs, omega)

    def equal_bits(self, workbench: Workbench, budget: Budget) -> Assignment:
        """The target's bits everywhere, nothing measured.

        Raises:
            LampQError: they are not in the bit set, or above the budget.
        """
        if budget.weight_bits not in budget.candidates:
            bits = f"{float(budget.weight_bits):g}"
            raise LampQError(
                f"allocator.start=uniform: weight_bits={bits} is not in bit_set.bits={list(budget.candidates)}; "
                "choose a target that is, or allocator.start=ilp"
            )
        layer_bits = SearchSpace.open(workbench, budget).equal_bits(int(budget.weight_bits), budget)
        origin = {"allocator": self.name, "settings": self.settings()}
        return Assignment(budget.plan(workbench.adapter.sites, layer_bits, origin), None, {})

    def resolved(
        self, workbench: Workbench, budget: Budget, scaling: TypeScaling | None, first: Assignment
    ) -> Assignment:
        """The best on D of the first plan and those of the metric measured again at the last one, `resolve` times.

        Labels and alpha_t stay those of the full-precision model. A plan that comes again ends it.
        """
        tried = [first]
        while len(tried) <= self.resolve:
            last = tried[-1].plan
            workbench.bank.calibrate(last)
            again = self.assigned(workbench, budget, self.measured(workbench, budget, last), scaling)
            if again.plan.key() in {found.plan.key() for found in tried}:
                break
            tried.append(again)
        workbench.evaluator.set_base(first.plan)
        best, best_score, history = first, None, []
        for found in tried:
            workbench.bank.calibrate(found.plan)
            score = workbench.evaluator.score(found.plan)
            history.append({"bits": found.plan.layer_bits(), "accuracy": score.accuracy, "loss": score.mean_loss})
            if best_score is None or score.improves_on(best_score, self.accept, self.accept_factor):
                best, best_score = found, score
        log.info("%s: plan %d of %d after solving again is the best on D", self.name, tried.index(best) + 1, len(tried))
        best.plan.origin["resolved"] = history
        return best


def unmoved(space: SearchSpace, budget: Budget, costs: Scores) -> dict[str, dict[int, float]]:
    """Costs of what bits are chosen for and nothing is known of: none at the bits that it would have otherwise, all
    others are not allowed."""
    unknown = [group for group in space.groups if group.layers[0].name not in costs]
    stays = {group.name: equal_number(group, int(budget.weight_bits), budget) for group in unknown}
    return {
        group.layers[0].name: {b: 0.0 if b == stays[group.name] else math.inf for b in group.bits} for group in unknown
    }
