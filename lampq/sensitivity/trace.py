"""Metrics that are one number a layer, a trace: what gamma makes of it at each bit-width."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from torch import Tensor

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
        rows = penalized_costs(list(omega.values()), budget.candidates, self.gamma).tolist()
        return {name: dict(zip(budget.candidates, row, strict=True)) for name, row in zip(omega, rows, strict=True)}


def penalized_costs(omega: Tensor | np.ndarray, candidate_bits: Sequence[int], gamma: float) -> np.ndarray:
    """Omega_i^(B) = gamma^-B Omega_i: a layer's estimated error at each bit-width (Iterative Bit Update, Step 1).

    Args:
        omega: ``[layers]``, type-aware sensitivities, not negative.
        candidate_bits: the bit set B.
        gamma: penalizing factor, above 1.

    Returns:
        ``[layers, candidates]`` float64.

    Raises:
        LampQError: gamma is not above 1, or a sensitivity is negative or not a number.
    """
    if not gamma > 1:
        raise LampQError(f"gamma={gamma}: fewer bits must cost more; choose a factor above 1")
    omega = np.asarray(omega.detach().cpu() if isinstance(omega, Tensor) else omega, dtype=np.float64)
    if not (np.isfinite(omega).all() and (omega >= 0).all()):
        layer = int(np.argmin(np.isfinite(omega) & (omega >= 0)))
        raise LampQError(f"the sensitivity of layer {layer} is {omega[layer]}; it must be finite and not negative")
    return omega[:, None] * np.array([float(gamma) ** -int(b) for b in candidate_bits])
