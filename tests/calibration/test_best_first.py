"""Giving candidates up early never changes the best."""

import random

import pytest

from lampq.calibration.best_first import best_first


def test_best_are_exact_and_others_are_exact_or_infinite():
    for pieces in [1, 5, 20]:
        for keep in [1, 3, 16, 40]:
            generator = random.Random(keep * 100 + pieces)
            table = [[generator.random() * generator.choice([1, 1, 5]) for _ in range(pieces)] for _ in range(30)]
            totals = [sum(row) for row in table]
            known = [generator.random() * pieces for _ in range(4)]
            found = best_first(lambda candidate, piece, table=table: table[candidate][piece], 30, pieces, keep, known)
            limit = sorted(totals + known)[min(keep, 34) - 1]
            for total, value in zip(totals, found, strict=True):
                assert value == float("inf") or value == pytest.approx(total), (keep, pieces)
                assert total > limit or value != float("inf"), (keep, pieces)


def test_hopeless_candidates_are_not_evaluated_in_full():
    asked = []

    def piece_error(candidate, piece):
        asked.append(candidate)
        return 1.0 if candidate == 3 else 100.0

    found = best_first(piece_error, 10, 64, 1, [])
    assert found.index(min(found)) == 3
    assert asked.count(3) == 64 and all(asked.count(other) <= 9 for other in range(10) if other != 3)
