"""One bit that is a sign."""

import torch

from lampq.number_formats.binary import fake_quantize_binary


def test_two_values_by_sign():
    x = torch.tensor([[-3.0, -0.1, 0.0, 0.2], [1.0, -1.0, 5.0, -5.0]])
    expected = [[-2.0, -2.0, 2.0, 2.0], [0.5, -0.5, 0.5, -0.5]]
    assert fake_quantize_binary(x, torch.tensor([[2.0], [0.5]])).tolist() == expected
