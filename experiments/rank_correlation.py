"""How alike two orders are."""

import math
from collections.abc import Sequence

import numpy as np


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank; NaN where one side has a single value."""
    ranks = [_ranks(np.asarray(values, dtype=np.float64)) for values in (one, other)]
    centred = [r - r.mean() for r in ranks]
    scale = math.sqrt(float((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum()) / scale if scale else math.nan


def _ranks(values: np.ndarray) -> np.ndarray:
    """``[n]`` float64, from 0."""
    below = (values[None, :] < values[:, None]).sum(1)
    equal = (values[None, :] == values[:, None]).sum(1)
    return below + (equal - 1) / 2
