"""Evaluate candidates piece by piece, the promising ones first, and give up those that cannot be among the best.

Errors are sums of non-negative pieces, so a sum over some pieces is a lower bound: leaving a candidate out once its
bound exceeds the worst error that is still wanted loses nothing.
"""

import heapq
from collections.abc import Callable

SLACK = 1e-4
"""Relative margin that rounding and ties may use before a candidate is given up."""

PILOT = 8
"""One piece in this many is evaluated for all candidates, to order them."""


def best_first(
    piece_error: Callable[[int, int], float], candidates: int, pieces: int, keep: int, known: list[float]
) -> list[float]:
    """Errors of the candidates, infinity for those given up.

    Args:
        piece_error: error of a candidate on a piece, given their indices; not negative but for rounding.
        candidates, pieces: how many there are.
        keep: how many of the best (`known` ones included) have to be exact.
        known: errors of other candidates that compete for the same places.
    """
    pilot = range(min(PILOT // 2, pieces - 1), pieces, PILOT) if candidates > keep and pieces > 1 else range(0)
    rest = [piece for piece in range(pieces) if piece not in set(pilot)]
    sums = [[piece_error(candidate, piece) for piece in pilot] for candidate in range(candidates)]
    errors = [float("inf")] * candidates
    best = [-error for error in heapq.nsmallest(keep, known)]
    heapq.heapify(best)
    for candidate in sorted(range(candidates), key=lambda index: sum(sums[index])):
        total = sum(sums[candidate])
        limit = -best[0] * (1 + SLACK) if len(best) == keep else float("inf")
        for piece in rest:
            if total > limit:
                break
            total += piece_error(candidate, piece)
        else:
            errors[candidate] = total
            if len(best) < keep:
                heapq.heappush(best, -total)
            else:
                heapq.heappushpop(best, -total)
    return errors
