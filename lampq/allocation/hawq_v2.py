"""HAWQ-V2: the mean Hessian trace of a layer times the squared error of its weights, and an integer linear program."""

import logging

from torch import Tensor

from lampq.allocation.base import Allocator
from lampq.allocation.least_score import least_score_plan
from lampq.limits import choice, integer
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.progress import progress
from lampq.sensitivity.hessian_trace import HessianTraces, hessian_traces
from lampq.sensitivity.labels import LABELS, identity_of_labels, labels_of
from lampq.sensitivity.weight_error import weight_errors
from lampq.workbench import Workbench

log = logging.getLogger(__name__)


class HAWQV2(Allocator):
    """Bits of least total ``Omega_i(b) = (tr(H_i) / c_i) || Q_b(W_i) - W_i ||^2``, no plan tried.

    H_i is the Hessian of the full-precision model's mean loss in the weights of layer i, c_i their number: Omega is
    the loss increase of second order where all weights of the layer are alike (HAWQ-V2, Dong et al., NeurIPS 2020).
    Among the plans of one size, HAWQ-V2 takes the one of least total Omega, its Pareto frontier's point at that size;
    the integer linear program, as HAWQ-V3 (Yao et al., ICML 2021) has it, finds that plan exactly. Errors of inputs
    play no part in it.

    A trace that comes out negative, which that of a trained network may (the loss is not convex, and the estimate
    scatters), counts as zero.

    Args:
        hessian_images: the first so many images of D; all of them where D has fewer.
        probes: random sign vectors of the estimate, at least 2 (its standard error comes from their spread). One
            costs as much as five or six forward passes over these images.
        labels: of the loss: the ``dataset``'s or ``sampled`` from the model.
    """

    name = "hawq_v2"
    revision = 1

    def __init__(self, hessian_images: int = 128, probes: int = 16, labels: str = "dataset") -> None:
        self.hessian_images = integer("allocator.hessian_images", hessian_images, minimum=1)
        self.probes = integer("allocator.probes", probes, minimum=2)
        self.labels = choice("allocator.labels", labels, LABELS)

    def settings(self) -> dict:
        return dict(vars(self))

    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Estimate the traces, measure the weights' errors, solve.

        Raises:
            LampQError: no plan keeps the budget, or the base quantizer is not defined at a bit-width of the bit set.
        """
        workbench.bank.check_bits("bit_set", *budget.candidates)
        names = [s.name for s in workbench.layers]
        found = self.traces(workbench)
        traces = dict(zip(names, found.trace.tolist(), strict=True))
        errors = dict(zip(names, found.standard_error.tolist(), strict=True))
        warn_of_noise(traces, errors)
        distances = weight_errors(workbench, budget)
        scores = {
            s.name: {b: max(traces[s.name], 0.0) / s.parameters * d for b, d in distances[s.name].items()}
            for s in workbench.layers
        }
        origin = {
            "allocator": self.name,
            "settings": self.settings(),
            "hessian_traces": traces,
            "standard_errors": errors,
            "negative_traces": sum(trace < 0 for trace in traces.values()),
        }
        return least_score_plan(workbench, budget, scores, origin)

    def traces(self, workbench: Workbench) -> HessianTraces:
        """tr(H_i) of every layer, stored by what it depends on; the base quantizer is none of it."""
        workbench.task.only_classifiers("Hessian traces (allocator=hawq_v2, or allocator.metric=hessian)")
        key = {
            "model": workbench.bank.identity["model"],
            "weights": workbench.bank.identity["weights"],
            **identity_of_labels(workbench, self.labels),
            "images": self.hessian_images,
            "probes": self.probes,
            "probe_seed": workbench.seed,
            "revision": 1,
        }

        def compute() -> dict[str, Tensor]:
            images = workbench.task.sample_images[: self.hessian_images]
            labels = labels_of(workbench, self.labels)[: len(images)]
            total = self.probes * len(images)
            with progress(description="Hessian traces over D", total=total, unit="products") as bar:
                names = [s.name for s in workbench.layers]
                found = hessian_traces(
                    workbench.adapter.network,
                    names,
                    images,
                    labels,
                    probes=self.probes,
                    seed=workbench.seed,
                    progress=lambda done: bar.update(done),
                )
            return {"samples": found.samples}

        return HessianTraces(workbench.store.fetch("hessian_traces", key, compute)["samples"])


def warn_of_noise(traces: dict[str, float], errors: dict[str, float]) -> None:
    """Say how many traces are negative, and which are smaller than their own standard error."""
    negative = sum(trace < 0 for trace in traces.values())
    if negative:
        log.warning("hawq_v2: %d of %d Hessian traces are negative and count as zero", negative, len(traces))
    noisy = [name for name in traces if errors[name] > abs(traces[name])]
    if noisy:
        log.warning(
            "hawq_v2: %d of %d Hessian traces are within their standard error (%s, ...): raise allocator.probes",
            len(noisy),
            len(traces),
            noisy[0],
        )
