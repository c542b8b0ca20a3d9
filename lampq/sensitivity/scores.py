"""Scores: what each layer costs at each bit-width, and what solvers, plans and files make of them."""

from collections.abc import Mapping

from lampq.plan.budget import Budget

Scores = Mapping[str, Mapping[int, float]]
"""Cost by layer and bits."""


def falling(scores: Mapping[int, float]) -> dict[int, float]:
    """The scores with those of more bits no higher than those of fewer bits: the running minimum from few bits up.

    A search of quantizer parameters may by chance find worse ones at more bits; since nothing forces their use, a
    layer with more bits counts as no worse (so does ModelOpt).
    """
    lowest, result = float("inf"), {}
    for bits in sorted(scores):
        # Not a number stays visible: min() would hide it.
        lowest = min(lowest, scores[bits]) if scores[bits] == scores[bits] else scores[bits]
        result[bits] = lowest
    return result


def at_the_target(scores: Scores, budget: Budget) -> dict[str, float]:
    """Each layer's score at one and the same bit-width, the target or the next in the bit set: they compare."""
    bits = min((b for b in budget.candidates if b >= budget.weight_bits), default=budget.candidates[-1])
    return {name: row[bits] for name, row in scores.items()}


def by_text(scores: Scores) -> dict[str, dict[str, float]]:
    """Scores with their bits as text, as JSON has them."""
    return {name: {str(bits): value for bits, value in row.items()} for name, row in scores.items()}
