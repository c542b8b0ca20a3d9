"""Spearman's rank correlation, by hand."""

import math

import pytest

from experiments.rank_correlation import spearman


def test_only_the_order_counts():
    assert spearman([1, 2, 3, 4], [10, 20, 1000, 1e9]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, -1]) == pytest.approx(-1)


def test_a_worked_example():
    # Ranks 0 1 2 3 4 and 1 0 3 2 4: 1 - 6 * 4 / (5 * 24)
    assert spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(0.8)


def test_equal_values_share_their_mean_rank():
    # Ranks 0.5 0.5 2 and 0 1 2: covariance 1.5, variances 1.5 and 2.
    assert spearman([7, 7, 9], [1, 2, 3]) == pytest.approx(1.5 / math.sqrt(1.5 * 2))


def test_a_single_value_has_no_order():
    assert math.isnan(spearman([3, 3, 3], [1, 2, 3]))
