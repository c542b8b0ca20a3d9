"""Metrics that are one number a layer, a trace: what gamma makes of it at each bit-width."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

from lampq.errors import LampQError
from lampq.parts import setting
from lampq.plan.budget import Budget
from lampq.sensitivity.metric import Metric
from lampq.sensitivity.scores import Scores
from lampq.workbench import Workbench


class Trace(Metric):
    """A trace tr of each layer, which costs ``gamma^-B tr`` at B bits (Iterative Bit Update, Step 1).

    Args:
        gamma: penalizing factor, above 1.
    """

    gamma: float = setting(4, above=1, key="lampq.gamma")

    @abstractmethod
    def traces(self, workbench: Workbench) -> dict[str, float]:
        """The trace of every layer, in the order of execution; not negative."""

    def scores(self, workbench: Workbench, budget: Budget) -> Scores:
        return self.penalized(self.traces(workbench), budget)

    def penalized(self, omega: dict[str, float], budget: Budget) -> Scores:
        """``gamma^-B omega`` of each layer at each bit-width of the bit set."""
        return penalized_costs(omega, budget.candidates, self.gamma)


def penalized_costs(omega: Mapping[str, float], candidate_bits: Sequence[int], gamma: float) -> Scores:
    """Omega_i^(B) = gamma^-B Omega_i: a layer's estimated error at each bit-width (Iterative Bit Update, Step 1).

    Args:
        omega: type-aware sensitivity of each layer, not negative.
        candidate_bits: the bit set B.
        gamma: penalizing factor, above 1.

    Raises:
        LampQError: gamma is not above 1, or a sensitivity is negative or not a number.
    """
    if not gamma > 1:
        raise LampQError(f"gamma={gamma}: fewer bits must cost more; choose a factor above 1")
    for name, value in omega.items():
        if not 0 <= value < math.inf:
            raise LampQError(f"the sensitivity of layer {name} is {value}; it must be finite and not negative")
    return {name: {b: value * float(gamma) ** -b for b in candidate_bits} for name, value in omega.items()}
