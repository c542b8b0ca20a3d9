"""Costs of a trace at each bit-width."""

import math

import pytest

from lampq.errors import LampQError
from lampq.sensitivity.trace import penalized_costs


def test_penalized_costs_are_the_papers():
    """alpha .03 and a trace of 8: Omega .24; at gamma 4, .00375 with 3 bits and .015 with 2."""
    assert penalized_costs({"fc1": 0.24}, [3, 2], 4) == {"fc1": {3: 0.00375, 2: 0.015}}


@pytest.mark.parametrize(("omega", "gamma", "message"), [
    ([1.0], 1, "gamma=1"), ([1.0, -1.0], 4, "layer b is -1.0"), ([math.nan], 4, "layer a is nan"),
])  # fmt: skip
def test_penalized_costs_refuse(omega, gamma, message):
    with pytest.raises(LampQError, match=message):
        penalized_costs(dict(zip("ab", omega, strict=False)), [2, 3], gamma)
