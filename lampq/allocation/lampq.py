"""LampQ: type-aware Fisher-based sensitivity, integer linear program, iterative bit update (Algorithm 1)."""

import logging
import math
from dataclasses import replace
from functools import partial

from lampq.allocation.base import Allocator
from lampq.allocation.greedy import reconstruction_screen
from lampq.allocation.hawq_v2 import HAWQV2
from lampq.allocation.iterative_update import iterative_update
from lampq.allocation.least_score import at_the_target, by_text
from lampq.allocation.search_space import SearchSpace
from lampq.allocation.solvers.dynamic_program import solve_dynamic_program
from lampq.allocation.solvers.greedy_ascent import solve_greedy
from lampq.allocation.solvers.ilp import penalized_costs, solve_ilp
from lampq.errors import LampQError
from lampq.limits import boolean, choice, fraction, integer, number, optional
from lampq.models.detection.pictures import Images
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.progress import progress
from lampq.sensitivity.expected_error import expected_ratios, paper_ratios
from lampq.sensitivity.fisher import fisher_traces
from lampq.sensitivity.labels import labels_of
from lampq.sensitivity.output_fisher import falling, output_fisher
from lampq.sensitivity.single_layer_loss import single_layer_losses
from lampq.sensitivity.straight_through import straight_through
from lampq.sensitivity.type_scaling import TypeScaling, sample_blocks, type_scaling
from lampq.sensitivity.weight_error import weight_errors
from lampq.workbench import Workbench

log = logging.getLogger(__name__)

CHUNK = 16
"""Images of D in one backward pass; fixed, so that traces do not depend on a user's batch size."""

Scores = dict[str, dict[int, float]]
"""Costs by layer and bits."""

SOLVERS = {"ilp": solve_ilp, "dynamic_program": solve_dynamic_program, "greedy": solve_greedy}
BY_BITS = {
    "output_fisher": output_fisher,
    "weight_error": lambda workbench, budget, labels: weight_errors(workbench, budget),
    "reconstruction": lambda workbench, budget, labels: reconstruction_screen(workbench, budget),
    "single_layer_loss": lambda workbench, budget, labels: single_layer_losses(workbench, budget),
}
"""Metrics that are measured at each bit-width; the others are traces, to which gamma gives a bit-width."""
OF_A_PLAN = ("fisher", "output_fisher")
"""Metrics that can be measured in a quantized model."""
RATIOS = {"recomputed": expected_ratios, "paper": paper_ratios, "measured": lambda: None}


class LampQ(Allocator):
    """Layer-wise mixed precision bits.

    With the defaults it is the paper's Algorithm 1. Other metrics than the Fisher trace take its place in Omega: a
    trace as it does, ``alpha_t tr``, at B bits times gamma^-B; one that is measured at each bit-width as ``alpha_t
    S_i(B)``, without gamma, and in alpha_t its value at beta bits stands for the trace, so that a type's mean still
    is its drop A_t there.

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
        labels: labels of the Fisher trace: ``sampled`` from the model (Lemma 2) or the ``dataset``'s; None: sampled,
            for a detector the data set's.
        gain_ratios: rho_B: ``recomputed`` (Lemma 3 in closed form), ``paper`` (Table 2 as printed), or ``measured``.
        swaps: ``feasible`` pairs within the budget, or the ``literal`` pair of Algorithm 1, lines 19-21.
        try_next_pairs: further pairs tried after one that failed, before the update stops (the paper: 0, at which a
            single noisy failure ends it).
        metric: ``fisher`` (traces, the paper's), ``hessian`` (HAWQ-V2's traces, negative ones count as zero),
            ``output_fisher`` (ModelOpt's), ``weight_error`` (squared, of all weights of a layer), ``reconstruction``
            (relative output error on the calibration images) or ``single_layer_loss`` (loss increase on D).
        resolve: how often the metric is measured again in the model at the last plan, and Problem 1 solved again; the
            best of these plans on D goes on. The paper has none; a summary of it by others says 2 or 3.
        swap_estimates: what orders the swaps: ``reconstruction`` errors of the current plan with `gain_ratios`, or the
            differences of the ``metric`` (times alpha_t) that Problem 1 was solved with.
        maximum_swaps: accepted swaps at most; None allows 4N.
        max_evaluations: plans scored on D in the update after the first one, at most; None is no limit.
    """

    name = "lampq"
    revision = 1

    def __init__(
        self,
        mu: float = 0.5,
        beta: int = 2,
        gamma: float = 4,
        type_scaling: bool = True,
        start: str = "ilp",
        iterative_update: bool = True,
        solver: str = "ilp",
        drop: str = "auto",
        labels: str | None = "sampled",
        gain_ratios: str = "recomputed",
        swaps: str = "feasible",
        try_next_pairs: int = 4,
        maximum_swaps: int | None = None,
        max_evaluations: int | None = None,
        metric: str = "fisher",
        resolve: int = 0,
        swap_estimates: str = "reconstruction",
    ) -> None:
        self.mu = fraction("lampq.mu", mu)
        self.beta = integer("lampq.beta", beta, minimum=1, maximum=16)
        self.gamma = number("lampq.gamma", gamma, above=1)
        self.type_scaling = boolean("allocator.type_scaling", type_scaling)
        self.start = choice("allocator.start", start, ("ilp", "uniform"))
        self.iterative_update = boolean("allocator.iterative_update", iterative_update)
        self.solver = choice("allocator.solver", solver, tuple(SOLVERS))
        self.drop = choice("allocator.drop", drop, ("auto", "accuracy", "loss"))
        self.labels = optional(choice, "allocator.labels", labels, ("sampled", "dataset"))
        self.gain_ratios = choice("allocator.gain_ratios", gain_ratios, tuple(RATIOS))
        self.swaps = choice("allocator.swaps", swaps, ("feasible", "literal"))
        self.try_next_pairs = integer("allocator.try_next_pairs", try_next_pairs, minimum=0)
        self.maximum_swaps = optional(integer, "allocator.maximum_swaps", maximum_swaps, minimum=0)
        self.max_evaluations = optional(integer, "max_evaluations", max_evaluations, minimum=0)
        self.metric = choice("allocator.metric", metric, ("fisher", "hessian", *BY_BITS))
        self.resolve = integer("allocator.resolve", resolve, minimum=0)
        self.swap_estimates = choice("allocator.swap_estimates", swap_estimates, ("reconstruction", "metric"))
        if self.resolve and self.metric not in OF_A_PLAN:
            raise LampQError(
                f"allocator.resolve={resolve}: allocator.metric={metric} is not measured in a quantized model; choose "
                f"{' or '.join(OF_A_PLAN)}, or resolve=0"
            )
        if self.start == "uniform" and self.swap_estimates == "metric":
            raise LampQError(
                "allocator.swap_estimates=metric: with allocator.start=uniform no metric is measured; choose "
                "reconstruction, or start=ilp"
            )

    def settings(self) -> dict:
        """All options; those of an idea that is switched off are left out, since they change nothing."""
        unused = set()
        if self.solver != "greedy":
            unused |= {"solver"}  # one optimum, whoever finds it
        if self.start == "ilp":
            unused |= {"start"}
        else:
            unused |= {"mu", "beta", "gamma", "type_scaling", "drop", "labels", "metric", "resolve", "solver"}
        if self.metric == "fisher":
            unused |= {"metric"}
        if self.metric in BY_BITS:
            unused |= {"gamma"}
            if self.metric != "output_fisher":
                unused |= {"labels"}
        if not self.resolve:
            unused |= {"resolve"}
        if not self.type_scaling:
            unused |= {"mu", "beta", "drop"}
        if not self.iterative_update:
            unused |= {"gain_ratios", "swaps", "try_next_pairs", "maximum_swaps", "max_evaluations", "swap_estimates"}
        if self.swap_estimates == "reconstruction":
            unused |= {"swap_estimates"}
        else:
            unused |= {"gain_ratios"}
        if self.max_evaluations is None:
            unused |= {"max_evaluations"}
        return {key: value for key, value in vars(self).items() if key not in unused}

    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Algorithm 1, lines 1 to 27.

        Raises:
            LampQError: no plan keeps the budget, or the base quantizer is not defined at a bit-width needed.
        """
        workbench.bank.check_bits("bit_set", *budget.candidates)
        if self.start == "ilp":
            plan, scores, omega = self.initial_assignment(workbench, budget)
        else:
            if budget.weight_bits not in budget.candidates:
                bits = f"{float(budget.weight_bits):g}"
                raise LampQError(
                    f"allocator.start=uniform: weight_bits={bits} is not in bit_set.bits={list(budget.candidates)}; "
                    "choose a target that is, or allocator.start=ilp"
                )
            layer_bits = SearchSpace.open(workbench, budget).equal_bits(int(budget.weight_bits))
            origin = {"allocator": self.name, "settings": self.settings(), "initial_bits": layer_bits}
            plan, omega = budget.plan(workbench.adapter.sites, layer_bits, origin), {}
            scores = None
        workbench.bank.calibrate(plan)

        # Step 2: error-based iterative updates (lines 13-26).
        if self.iterative_update:
            plan, swaps = iterative_update(
                plan,
                workbench,
                budget,
                ratios=RATIOS[self.gain_ratios](),
                literal_swaps=self.swaps == "literal",
                try_next_pairs=self.try_next_pairs,
                maximum_swaps=len(workbench.layers) if self.maximum_swaps is None else self.maximum_swaps,
                max_evaluations=self.max_evaluations,
                scores=scores if self.swap_estimates == "metric" else None,
            )
            plan.origin["swaps"] = swaps
            log.info("iterative update: %d of %d swaps accepted", sum(s["accepted"] for s in swaps), len(swaps))
        return plan.with_scores(omega)

    def initial_assignment(self, workbench: Workbench, budget: Budget) -> tuple[BitPlan, Scores, dict[str, float]]:
        """Lines 1 to 11: the metric of every layer, and the plan that Problem 1 makes of it.

        Returns:
            The plan, the cost of each layer at each bit-width, and Omega_i (of a metric by bits, that at the target).
        """
        full_precision = BitPlan.full_precision(workbench.adapter.sites)
        measured = self.measured(workbench, budget)
        at_beta = {name: row[self.beta] for name, row in measured.items()} if self.metric in BY_BITS else measured
        scaling = self.scale_types(workbench, budget, at_beta, full_precision)
        plan, scores, omega = self.solved(workbench, budget, measured, scaling)
        plan.origin["initial_bits"] = plan.layer_bits()
        if self.resolve:
            plan, scores, omega = self.resolved(workbench, budget, scaling, (plan, scores, omega))
        return plan, scores, omega

    def solved(
        self, workbench: Workbench, budget: Budget, measured: dict, scaling: TypeScaling | None
    ) -> tuple[BitPlan, Scores, dict[str, float]]:
        """Problem 1 (line 11) with a metric, by layer (traces) or by layer and bits, weighed by type."""
        layers = workbench.layers
        alpha = {s.name: scaling.alpha[s.type] if scaling else 1.0 for s in layers}
        if self.metric in BY_BITS:
            rows = {s.name: {b: alpha[s.name] * measured[s.name][b] for b in budget.candidates} for s in layers}
            scores = {name: falling(row) for name, row in rows.items()}
            omega, told = at_the_target(scores, budget), {"scores": by_text(scores)}
        else:
            omega = {s.name: alpha[s.name] * measured[s.name] for s in layers}
            rows = penalized_costs([omega[s.name] for s in layers], budget.candidates, self.gamma).tolist()
            columns = budget.candidates
            scores = {s.name: dict(zip(columns, row, strict=True)) for s, row in zip(layers, rows, strict=True)}
            told = {f"{self.metric}_traces": measured}
        space = SearchSpace.open(workbench, budget)
        allocation = SOLVERS[self.solver](space.costs(scores), space.spending, space.bits, space.room)
        log.info("initial assignment by %s, objective %.6g", allocation.solver, allocation.objective)
        origin = {
            "allocator": self.name,
            "settings": self.settings(),
            "solver": allocation.solver,
            "objective": allocation.objective,
            **told,
            "type_scaling": scaling.to_json() if scaling else None,
        }
        return budget.plan(workbench.adapter.sites, space.layer_bits(allocation.bits), origin), scores, omega

    def resolved(
        self,
        workbench: Workbench,
        budget: Budget,
        scaling: TypeScaling | None,
        first: tuple[BitPlan, Scores, dict[str, float]],
    ) -> tuple[BitPlan, Scores, dict[str, float]]:
        """The best on D of the first plan and those of the metric measured again at the last one, `resolve` times.

        Labels and alpha_t stay those of the full-precision model. A plan that comes again ends it.
        """
        tried, history = [first], []
        while len(tried) <= self.resolve:
            last = tried[-1][0]
            workbench.bank.calibrate(last)
            again = self.solved(workbench, budget, self.measured(workbench, budget, last), scaling)
            if again[0].key() in {plan.key() for plan, *_ in tried}:
                break
            tried.append(again)
        workbench.evaluator.set_base(first[0])
        best, best_score = first, None
        for answer in tried:
            workbench.bank.calibrate(answer[0])
            score = workbench.evaluator.score(answer[0])
            history.append({"bits": answer[0].layer_bits(), "accuracy": score.accuracy, "loss": score.mean_loss})
            if best_score is None or score.better_than(best_score):
                best, best_score = answer, score
        log.info("%s: plan %d of %d after solving again is the best on D", self.name, tried.index(best) + 1, len(tried))
        best[0].origin.update(resolved=history, initial_bits=best[0].layer_bits())
        return best

    def measured(self, workbench: Workbench, budget: Budget, plan: BitPlan | None = None) -> dict:
        """The metric of every layer: a trace, or a score at each bit-width of the bit set (and at beta).

        Args:
            plan: measured in the model at this plan; None: in full precision.
        """
        if self.metric == "fisher":
            return self.fisher_traces(workbench, plan)
        if self.metric == "hessian":
            found = HAWQV2(labels=self.labels).traces(workbench).trace.tolist()
            return {s.name: max(trace, 0.0) for s, trace in zip(workbench.layers, found, strict=True)}
        if self.type_scaling:
            budget = replace(budget, candidates=tuple(sorted({*budget.candidates, self.beta})))
        at_plan = {} if plan is None else {"plan": plan}
        return BY_BITS[self.metric](workbench, budget, self.labels, **at_plan)

    def fisher_traces(self, workbench: Workbench, plan: BitPlan | None = None) -> dict[str, float]:
        """tr(F_i) of every layer over D, on the original parameters or, straight through, in the model at a plan."""
        task, names = workbench.task, [s.name for s in workbench.layers]
        key = {
            "model": workbench.bank.identity["model"],
            "weights": workbench.bank.identity["weights"],
            "sample": task.identity["sample"],
            "labels": self.labels,
            "seed": workbench.seed if self.labels == "sampled" else None,
            "revision": 1,
            **({} if plan is None else {**workbench.bank.identity, "plan": plan.key()}),
        }

        def compute() -> dict:
            images, labels = task.sample_images, labels_of(workbench, self.labels)
            with progress(description="Fisher traces over D", total=len(images), unit="images") as bar:
                adapter = (
                    workbench.adapter if plan is None else straight_through(workbench.adapter, workbench.bank, plan)
                )
                traces = fisher_traces(
                    adapter.network,
                    names,
                    images,
                    labels,
                    chunk=1 if isinstance(images, Images) else CHUNK,
                    losses=partial(task.losses, adapter),
                    progress=lambda done, _: bar.update(done - bar.n),
                )
            return {"trace": traces.trace, "standard_error": traces.standard_error}

        stored = workbench.store.fetch("fisher_traces", key, compute)
        return dict(zip(names, stored["trace"].tolist(), strict=True))

    def scale_types(
        self, workbench: Workbench, budget: Budget, traces: dict[str, float], full_precision: BitPlan
    ) -> TypeScaling | None:
        """alpha_t of every type, with one line on how it was measured; None when idea I2 is switched off."""
        if not self.type_scaling:
            return None
        workbench.bank.check_bits("lampq.beta", self.beta)
        blocks = sample_blocks(workbench.adapter.blocks, self.mu, workbench.seed)
        single = (self.beta, budget.input_bits(self.beta))
        workbench.bank.prepare([(layer, *single) for layer in workbench.layers if layer.block in blocks])
        scaling = type_scaling(
            workbench.layers, traces, blocks, self.beta, self.drop, workbench.evaluator, full_precision, budget
        )
        unit = {"accuracy": "points", "loss": "nats"}[scaling.measure]
        factor = 100 if scaling.measure == "accuracy" else 1
        drops = ", ".join(
            f"{type} {factor * drop:.3g}±{factor * scaling.drop_standard_error[type]:.2g}"
            for type, drop in scaling.drop.items()
        )
        log.info("A_t at %d bits over %d blocks (%s): %s", self.beta, len(blocks), unit, drops)
        if self.drop == "auto" and scaling.measure == "loss" and workbench.task.name == "classification":
            log.info("accuracy drops are within noise for at least one type: alpha_t comes from the mean loss increase")
        if any(not math.isfinite(alpha) for alpha in scaling.alpha.values()):
            log.warning("alpha_t is not finite for some type: its Fisher traces are zero")
        return scaling
