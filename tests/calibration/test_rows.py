"""Rows that convolutions and linear layers of detectors are calibrated on."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import lampq.calibration.rows
from lampq.calibration.rows import rows_of


@pytest.mark.parametrize(("kernel", "padding", "stride"), [(1, 0, 1), (3, 1, 1), (3, 0, 2)])
def test_a_convolutions_outputs_are_its_rows_times_its_weights(kernel, padding, stride):
    torch.manual_seed(0)
    layer, x = nn.Conv2d(4, 5, kernel, stride, padding), torch.randn(2, 4, 7, 9)
    rows = rows_of(layer, x)
    assert torch.equal(rows, functional.unfold(x, kernel, padding=padding, stride=stride).mT.flatten(0, 1))
    outputs = functional.linear(rows, layer.weight.flatten(1), layer.bias)
    torch.testing.assert_close(outputs, layer(x).permute(0, 2, 3, 1).flatten(0, 2))


def test_of_many_rows_some_are_kept_evenly_spaced(monkeypatch):
    monkeypatch.setattr(lampq.calibration.rows, "ROWS", 10)
    x = torch.randn(1, 4, 5, 7)
    every = functional.unfold(x, 3, padding=1).mT.flatten(0, 1)
    kept = [number * 35 // 10 for number in range(10)]
    assert torch.equal(rows_of(nn.Conv2d(4, 5, 3, padding=1), x), every[kept])
    tokens = torch.randn(5, 7, 4)
    assert torch.equal(rows_of(nn.Linear(4, 2), tokens), tokens.reshape(35, 4)[kept])
