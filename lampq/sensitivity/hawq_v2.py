"""HAWQ-V2's metric: the mean Hessian trace of a layer times the squared error of its weights."""

import logging
from typing import Any, Literal

from lampq.parts import setting
from lampq.plan.budget import Budget
from lampq.sensitivity.hessian_trace import Hessian, HessianTraces
from lampq.sensitivity.metric import Metric
from lampq.sensitivity.scores import Scores
from lampq.sensitivity.weight_error import WeightError
from lampq.workbench import Workbench

log = logging.getLogger(__name__)


class HAWQV2(Metric):
    """``Omega_i(b) = (tr(H_i) / c_i) || Q_b(W_i) - W_i ||^2``, no plan tried.

    H_i is the Hessian of the full-precision model's mean loss in the weights of layer i, c_i their number: Omega is
    the loss increase of second order where all weights of the layer are alike (HAWQ-V2, Dong et al., NeurIPS 2020).
    Among the plans of one size, HAWQ-V2 takes the one of least total Omega, its Pareto frontier's point at that size;
    the integer linear program, as HAWQ-V3 (Yao et al., ICML 2021) has it, finds that plan exactly. Errors of inputs
    play no part in it.

    A trace that comes out negative, which that of a trained network may (the loss is not convex, and the estimate
    scatters), counts as zero.

    Args:
        hessian_images, probes, labels: see `lampq.sensitivity.hessian_trace.Hessian`.
    """

    name = "hawq_v2"

    hessian_images: int = setting(128, minimum=1)
    probes: int = setting(16, minimum=2)
    labels: Literal["dataset", "sampled"] = "dataset"

    def scores(self, workbench: Workbench, budget: Budget) -> Scores:
        noted = self.notes(workbench)
        warn_of_noise(noted["hessian_traces"], noted["standard_errors"])
        mean = {s.name: max(noted["hessian_traces"][s.name], 0.0) / s.parameters for s in workbench.layers}
        distances = WeightError().scores(workbench, budget)
        return {name: {b: mean[name] * distance for b, distance in row.items()} for name, row in distances.items()}

    def costs(self, scores: Scores) -> Scores:
        """As they are, as published."""
        return scores

    def notes(self, workbench: Workbench) -> dict[str, Any]:
        found, names = self.estimated(workbench), [s.name for s in workbench.layers]
        return {
            "hessian_traces": dict(zip(names, found.trace.tolist(), strict=True)),
            "standard_errors": dict(zip(names, found.standard_error.tolist(), strict=True)),
            "negative_traces": int((found.trace < 0).sum()),
        }

    def estimated(self, workbench: Workbench) -> HessianTraces:
        """The traces and the probes that they come from."""
        return Hessian(**self.settings()).estimated(workbench)


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
