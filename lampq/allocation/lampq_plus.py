"""LampQ+, ours: LampQ over errors that are measured at each bit-width instead of estimated from a trace."""

from typing import Literal

from lampq.allocation.lampq import LampQ
from lampq.parts import same, setting
from lampq.sensitivity.metric import metric_name


class LampQPlus(LampQ):
    """LampQ with what it estimates measured instead.

    A Fisher trace says how much a layer's weights matter, not how much quantization moves them: which of two layers of
    a type should have the bits, it cannot tell where their errors differ, and gamma gives all layers one and the same
    law of error over bits. Here the program adds up ``|| dL/dY * (Y^ - Y) ||^2`` over D, with each layer's real
    quantized output at each bit-width (`lampq.sensitivity.output_fisher`); and the update tries the swaps that
    promise most of the same costs, so that it goes on where the program stopped, instead of by relative errors,
    which do not say what a layer's error does to the loss.

    Everything is an option of `LampQ`, of which this is another choice; each can be switched back by itself.
    """

    name = "lampq_plus"

    type_scaling: bool = False
    drop: Literal["auto", "accuracy", "loss"] = "loss"
    labels: Literal["sampled", "dataset"] | None = "dataset"
    try_next_pairs: int = same(LampQ, "try_next_pairs", default=12)
    metric: str = setting("output_fisher", check=metric_name)
    swap_estimates: Literal["reconstruction", "metric", "context"] = "metric"
