"""Work that may not take long."""

import time

import pytest

from lampq.runs.tracking.time_limit import TimeLimit


def test_what_returns_or_raises_in_time_does_so():
    limit = TimeLimit(5)
    assert limit.call(lambda: 3) == 3
    with pytest.raises(ValueError, match="no"):
        limit.call(lambda: int("no"))
    assert 4 < limit.left < 5


def test_what_takes_longer_is_left_behind_and_the_time_is_spent():
    limit, started = TimeLimit(0.2), time.monotonic()
    with pytest.raises(TimeoutError, match="no answer within"):
        limit.call(lambda: time.sleep(5))
    assert time.monotonic() - started < 2 and limit.left == 0
    assert limit.call(lambda: 3, at_most=5) == 3
