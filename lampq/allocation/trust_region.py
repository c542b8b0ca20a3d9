"""How far the next plan of a search may go from its last one, and what refused plans have taught."""

from collections.abc import Sequence

import numpy as np

from lampq.plan.bit_plan import BitPlan

FEWEST = 2
"""Groups that may change at least: one that gains a bit, and one that gives it."""


class TrustRegion:
    """Plans that differ from one plan in few groups; fewer where a plan was not better than expected, more after one
    that was.

    Args:
        largest: groups that a plan may change, at most.
        places: groups, and bits that a group may have.

    Attributes:
        trust: groups that the next plan may change, at most.
        surprise: what each change costs beyond its prediction, ``[groups, bits]``, in nats.
    """

    def __init__(self, largest: int, places: tuple[int, int]) -> None:
        self._largest = largest
        self._places = places
        self.reset()

    def reset(self) -> None:
        """As at first, nothing learned."""
        self.trust = self._largest
        self._forget()

    def grow(self) -> None:
        """After a better plan, from which the next one goes: twice as many changes, nothing learned there yet."""
        self.trust = min(2 * self.trust, self._largest)
        self._forget()

    def shrink(self, plan: BitPlan, changed: Sequence[tuple[int, int]], beyond: float) -> None:
        """After a plan that was not better: half its changes.

        Args:
            plan: the refused one.
            changed: places of its changes: rows and columns of `surprise`.
            beyond: how much worse than expected it was, in nats; laid on its changes in equal parts.
        """
        self._refused.add(plan.key())
        self.trust = max(len(changed) // 2, FEWEST)
        for place in changed:
            self.surprise[place] += beyond / len(changed)

    def has_refused(self, plan: BitPlan) -> bool:
        """Whether a plan was refused from here."""
        return plan.key() in self._refused

    def _forget(self) -> None:
        self.surprise = np.zeros(self._places)
        self._refused: set[str] = set()
