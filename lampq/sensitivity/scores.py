"""Scores: what each layer costs at each bit-width, and what solvers, plans and files make of them."""

from collections.abc import Mapping

from lampq.plan.bits import Bits
from lampq.plan.budget import Budget

Scores = Mapping[str, Mapping[int, float]]
"""Cost by layer and bits."""

SiteScores = Mapping[str, Mapping[Bits, float]]
"""Cost by site and (weight bits, input bits)."""


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


def falling_in_both(scores: Mapping[Bits, float]) -> dict[Bits, float]:
    """The same of (weight bits, input bits): no higher than where both are as few or fewer."""
    return {
        bits: min(other for few, other in scores.items() if no_more(few, bits)) if score == score else score
        for bits, score in scores.items()
    }


def no_more(few: Bits, many: Bits) -> bool:
    """Whether one has no more bits than another, of weights and of inputs; None is the most."""
    return all(b is None or (a is not None and a <= b) for a, b in zip(few, many, strict=True))


def at_the_target(scores: Scores, budget: Budget) -> dict[str, float]:
    """Each layer's score at one and the same bit-width, the target or the next in the bit set: they compare."""
    bits = min((b for b in budget.candidates if b >= budget.weight_bits), default=budget.candidates[-1])
    return {name: row[bits] for name, row in scores.items()}


def by_text(scores: Scores) -> dict[str, dict[str, float]]:
    """Scores with their bits as text, as JSON has them."""
    return {name: {str(bits): value for bits, value in row.items()} for name, row in scores.items()}


def pairs_by_text(row: Mapping[Bits, float]) -> dict[str, float]:
    """A site's scores with (weight bits, input bits) as text, as JSON has them: ``W3A4``, ``A4``."""
    return {bits.text: value for bits, value in row.items()}
