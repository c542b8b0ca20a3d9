"""Bounds of channels' ranges by each other."""

import pytest
import torch

from lampq.calibration.channel_range import bound_channels

LOW = torch.tensor([-1.0, -2.0, -3.0, -4.0, -50.0])
HIGH = torch.tensor([2.0, 3.0, 4.0, 5.0, 90.0])


def test_interquartile_ranges():
    low, high = bound_channels(LOW, HIGH, "iqr")
    assert high.tolist() == [2, 3, 4, 5, 5 + 1.5 * 2]
    assert low.tolist() == [-1, -2, -3, -4, -4 - 1.5 * 2]


def test_a_fraction_of_the_channels():
    low, high = bound_channels(LOW, HIGH, 0.75)
    assert high.tolist() == [2, 3, 4, 5, 5] and low.tolist() == [-1, -2, -3, -4, -4]
    for end, bounded in zip((LOW, HIGH), bound_channels(LOW, HIGH, 1), strict=True):
        assert torch.equal(end, bounded)


@pytest.mark.parametrize("bound", ["iqr", 0.75])
def test_a_channel_outside_altogether_has_no_width(bound):
    low, high = bound_channels(torch.cat([LOW, torch.tensor([70.0])]), torch.cat([HIGH, torch.tensor([80.0])]), bound)
    assert low[-1] <= high[-1] and (low <= high).all()
