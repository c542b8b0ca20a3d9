"""LampQ: type-aware Fisher-based sensitivity, integer linear program, iterative bit update (Algorithm 1)."""

import logging
import math

from lampq.allocation.base import Allocator, Search
from lampq.allocation.dynamic_program import solve_dynamic_program
from lampq.allocation.ilp import penalized_costs, solve_ilp
from lampq.allocation.iterative_update import iterative_update
from lampq.allocation.search_space import SearchSpace
from lampq.budgets import Budget
from lampq.errors import LampQError
from lampq.limits import boolean, choice, fraction, integer, number, optional
from lampq.plan import BitPlan
from lampq.progress import progress
from lampq.sensitivity.expected_error import expected_ratios, paper_ratios
from lampq.sensitivity.fisher import fisher_traces, sample_labels
from lampq.sensitivity.type_scaling import TypeScaling, sample_blocks, type_scaling

log = logging.getLogger(__name__)

SOLVERS = {"ilp": solve_ilp, "dynamic_program": solve_dynamic_program}
RATIOS = {"recomputed": expected_ratios, "paper": paper_ratios, "measured": lambda: None}


class LampQ(Allocator):
    """Layer-wise mixed precision bits.

    Args:
        mu: fraction of the N blocks whose layers are quantized one at a time for alpha_t, in (0, 1].
        beta: bits of that single layer.
        gamma: penalizing factor; a layer's error at B bits is gamma^-B Omega_i.
        type_scaling: idea I2; without it alpha_t = 1 for every type.
        start: where the update starts: ``ilp`` (Problem 1) or ``uniform`` (equal bits; no metric, no program: what
            idea I3 can do by itself).
        iterative_update: idea I3; without it the initial assignment is the answer.
        solver: ``ilp`` (PuLP's CBC, checked against the dynamic program) or ``dynamic_program``.
        drop: what A_t is measured by: ``accuracy``, ``loss``, or ``auto`` (loss where accuracy is within noise).
        labels: labels of the Fisher trace: ``sampled`` from the model (Lemma 2) or the ``dataset``'s.
        gain_ratios: rho_B: ``recomputed`` (Lemma 3 in closed form), ``paper`` (Table 2 as printed), or ``measured``.
        swaps: ``feasible`` pairs within the budget, or the ``literal`` pair of Algorithm 1, lines 19-21.
        try_next_pairs: further pairs tried after one that failed, before the update stops (the paper: 0, at which a
            single noisy failure ends it).
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
        labels: str = "sampled",
        gain_ratios: str = "recomputed",
        swaps: str = "feasible",
        try_next_pairs: int = 4,
        maximum_swaps: int | None = None,
        max_evaluations: int | None = None,
    ) -> None:
        self.mu = fraction("lampq.mu", mu)
        self.beta = integer("lampq.beta", beta, minimum=1, maximum=16)
        self.gamma = number("lampq.gamma", gamma, above=1)
        self.type_scaling = boolean("allocator.type_scaling", type_scaling)
        self.start = choice("allocator.start", start, ("ilp", "uniform"))
        self.iterative_update = boolean("allocator.iterative_update", iterative_update)
        self.solver = choice("allocator.solver", solver, tuple(SOLVERS))
        self.drop = choice("allocator.drop", drop, ("auto", "accuracy", "loss"))
        self.labels = choice("allocator.labels", labels, ("sampled", "dataset"))
        self.gain_ratios = choice("allocator.gain_ratios", gain_ratios, tuple(RATIOS))
        self.swaps = choice("allocator.swaps", swaps, ("feasible", "literal"))
        self.try_next_pairs = integer("allocator.try_next_pairs", try_next_pairs, minimum=0)
        self.maximum_swaps = optional(integer, "allocator.maximum_swaps", maximum_swaps, minimum=0)
        self.max_evaluations = optional(integer, "max_evaluations", max_evaluations, minimum=0)

    def settings(self) -> dict:
        """All options; those of an idea that is switched off are left out, since they change nothing."""
        unused = {"solver"}
        if self.start == "ilp":
            unused |= {"start"}
        else:
            unused |= {"mu", "beta", "gamma", "type_scaling", "drop", "labels"}
        if not self.type_scaling:
            unused |= {"mu", "beta", "drop"}
        if not self.iterative_update:
            unused |= {"gain_ratios", "swaps", "try_next_pairs", "maximum_swaps", "max_evaluations"}
        if self.max_evaluations is None:
            unused |= {"max_evaluations"}
        return {key: value for key, value in vars(self).items() if key not in unused}

    def allocate(self, search: Search, budget: Budget) -> BitPlan:
        """Algorithm 1, lines 1 to 27.

        Raises:
            LampQError: no plan keeps the budget, or the base quantizer is not defined at a bit-width needed.
        """
        search.bank.check_bits("bit_set", *budget.candidates)
        if self.start == "ilp":
            plan, omega = self.initial_assignment(search, budget)
        else:
            if budget.weight_bits not in budget.candidates:
                bits = f"{float(budget.weight_bits):g}"
                raise LampQError(
                    f"allocator.start=uniform: weight_bits={bits} is not in bit_set.bits={list(budget.candidates)}; "
                    "choose a target that is, or allocator.start=ilp"
                )
            layer_bits = SearchSpace.open(search, budget).equal_bits(int(budget.weight_bits))
            origin = {"allocator": self.name, "settings": self.settings(), "initial_bits": layer_bits}
            plan, omega = budget.plan(search.adapter.sites, layer_bits, origin), {}
        search.bank.calibrate(plan)

        # Step 2: error-based iterative updates (lines 13-26).
        if self.iterative_update:
            plan, swaps = iterative_update(
                plan,
                search,
                budget,
                ratios=RATIOS[self.gain_ratios](),
                literal_swaps=self.swaps == "literal",
                try_next_pairs=self.try_next_pairs,
                maximum_swaps=len(search.layers) if self.maximum_swaps is None else self.maximum_swaps,
                max_evaluations=self.max_evaluations,
            )
            plan.origin["swaps"] = swaps
            log.info("iterative update: %d of %d swaps accepted", sum(s["accepted"] for s in swaps), len(swaps))
        return plan.with_scores(omega)

    def initial_assignment(self, search: Search, budget: Budget) -> tuple[BitPlan, dict[str, float]]:
        """Lines 1 to 11: the metric Omega_i of every layer, and the plan that Problem 1 makes of it."""
        layers = search.layers
        full_precision = BitPlan.full_precision(search.adapter.sites)

        # Type-aware Fisher-based metric (lines 1-10).
        traces = self.fisher_traces(search)
        scaling = self.scale_types(search, budget, traces, full_precision)
        omega = {s.name: scaling.alpha[s.type] * traces[s.name] if scaling else traces[s.name] for s in layers}

        # Step 1: initial assignment (line 11).
        rows = penalized_costs([omega[s.name] for s in layers], budget.candidates, self.gamma).tolist()
        scores = {s.name: dict(zip(budget.candidates, row, strict=True)) for s, row in zip(layers, rows, strict=True)}
        space = SearchSpace.open(search, budget)
        allocation = SOLVERS[self.solver](space.costs(scores), space.spending, space.bits, space.room)
        log.info("initial assignment by %s, objective %.6g", allocation.solver, allocation.objective)
        layer_bits = space.layer_bits(allocation.bits)
        origin = {
            "allocator": self.name,
            "settings": self.settings(),
            "solver": allocation.solver,
            "objective": allocation.objective,
            "fisher_traces": traces,
            "type_scaling": scaling.to_json() if scaling else None,
            "initial_bits": layer_bits,
        }
        return budget.plan(search.adapter.sites, layer_bits, origin), omega

    def fisher_traces(self, search: Search) -> dict[str, float]:
        """tr(F_i) of every layer on the original parameters, over D."""
        task, names = search.task, [s.name for s in search.layers]
        key = {
            "model": search.bank.identity["model"],
            "weights": search.bank.identity["weights"],
            "sample": task.identity["sample"],
            "labels": self.labels,
            "seed": search.seed if self.labels == "sampled" else None,
            "revision": 1,
        }

        def compute() -> dict:
            images, labels = task.sample_images, task.sample_labels
            if self.labels == "sampled":
                labels = sample_labels(search.evaluator.full_precision_logits(), search.seed)
            with progress(description="Fisher traces over D", total=len(images), unit="images") as bar:
                network = search.adapter.network
                traces = fisher_traces(
                    network, names, images, labels, progress=lambda done, _: bar.update(done - bar.n)
                )
            return {"trace": traces.trace, "standard_error": traces.standard_error}

        stored = search.store.fetch("fisher_traces", key, compute)
        return dict(zip(names, stored["trace"].tolist(), strict=True))

    def scale_types(
        self, search: Search, budget: Budget, traces: dict[str, float], full_precision: BitPlan
    ) -> TypeScaling | None:
        """alpha_t of every type, with one line on how it was measured; None when idea I2 is switched off."""
        if not self.type_scaling:
            return None
        search.bank.check_bits("lampq.beta", self.beta)
        blocks = sample_blocks(search.adapter.blocks, self.mu, search.seed)
        single = (self.beta, budget.input_bits(self.beta))
        search.bank.prepare([(layer, *single) for layer in search.layers if layer.block in blocks])
        scaling = type_scaling(
            search.layers, traces, blocks, self.beta, self.drop, search.evaluator, full_precision, budget
        )
        unit = {"accuracy": "points", "loss": "nats"}[scaling.measure]
        factor = 100 if scaling.measure == "accuracy" else 1
        drops = ", ".join(
            f"{type} {factor * drop:.3g}±{factor * scaling.drop_standard_error[type]:.2g}"
            for type, drop in scaling.drop.items()
        )
        log.info("A_t at %d bits over %d blocks (%s): %s", self.beta, len(blocks), unit, drops)
        if self.drop == "auto" and scaling.measure == "loss":
            log.info("accuracy drops are within noise for at least one type: alpha_t comes from the mean loss increase")
        if any(not math.isfinite(alpha) for alpha in scaling.alpha.values()):
            log.warning("alpha_t is not finite for some type: its Fisher traces are zero")
        return scaling
