"""Self error: from sums between thresholds and element by element, the same."""

import torch

from lampq.calibration.candidate_formats import BinaryFormat, UniformFormat
from lampq.calibration.self_error import SelfError
from lampq.number_formats.uniform import fake_quantize_affine


def test_equals_the_definition():
    for values in [40, 5000]:
        for bits in [1, 2, 3, 4, 8]:
            torch.manual_seed(bits)
            x = torch.randn(3, values, dtype=torch.float64) * torch.tensor([[1.0], [3.0], [0.1]])
            scales = x.abs().amax(1)[:, None, None] / 2 ** (bits - 1) * torch.tensor([0.3, 0.7, 1.1])
            partners = torch.tensor([[0.0, 2.0**bits - 1]]).expand(3, 2)
            scales = scales.expand(3, 2, 3)
            errors = SelfError(UniformFormat(bits), x.sort(1).values)(scales, partners, 1)
            for family in range(2):
                for member in range(3):
                    quantized = fake_quantize_affine(
                        x, scales[:, family, member, None], partners[:, family, None], bits
                    )
                    torch.testing.assert_close(errors[:, family, member], (quantized - x).square().sum(1))


def test_by_sums_is_used_and_agrees_with_element_by_element():
    x = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)).sort(1).values
    error = SelfError(UniformFormat(3), x)
    scales, partners = torch.rand(2, 4, 5) + 0.1, torch.tensor([[0.0, 3.0, 4.0, 7.0]] * 2)
    assert error.by_sums
    by_sums = error(scales, partners, 1)
    error.by_sums = False
    torch.testing.assert_close(by_sums, error(scales, partners, 1), rtol=1e-6, atol=0)


def test_binary():
    x = torch.tensor([[-2.0, -1.0, 3.0]])
    errors = SelfError(BinaryFormat(), x)(torch.tensor([[[1.0, 2.0]]]), torch.zeros(1, 1), 1)
    torch.testing.assert_close(errors, torch.tensor([[[5.0, 2.0]]], dtype=torch.float64), rtol=1e-6, atol=0)
