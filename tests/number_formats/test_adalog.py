"""AdaLog numbers against hand-worked values."""

import pytest
import torch

from lampq.number_formats.adalog import AdaLogQuantizer, adalog_levels, adalog_shifts, adalog_table


def quantizer(scale, log_base, bits, **options):
    return AdaLogQuantizer(torch.tensor(scale, dtype=torch.float64), torch.tensor(float(log_base)), bits, **options)


def test_base_two_reconstructs_powers_of_two():
    assert adalog_levels(torch.tensor(37), 3).tolist() == [2.0**-code for code in range(8)] + [0.0]


def test_shifts_and_table_of_a_smaller_base():
    log_base = torch.tensor(20)
    assert adalog_shifts(log_base, 3).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert adalog_table(log_base, 3).tolist() == [14, 10, 13, 9, 13, 9, 12, 8]
    expected = [1, 0.71429, 0.46429, 0.32143, 0.23214, 0.16071, 0.10714, 0.07143, 0]
    assert adalog_levels(log_base, 3).tolist() == pytest.approx(expected, abs=1e-5)
    four_bits = adalog_levels(torch.tensor(18), 4)
    assert [four_bits[1].item(), four_bits[2].item(), four_bits[15].item()] == pytest.approx([0.7, 0.5, 0.00625])


def test_codes_of_single_values():
    x = torch.tensor([0.3, 0.004, 0.0045, 0.006, 0.0, 2.0], dtype=torch.float64)
    log2 = quantizer(1.0, 37, 3)
    assert log2.codes(x).tolist() == [2, 8, 8, 7, 8, 0]
    assert log2(x).tolist() == [0.25, 0, 0, 0.0078125, 0, 1]


def test_at_most_one_value_more_than_codes():
    for log_base in [10, 23, 37, 137]:
        for bits in [1, 2, 3, 4, 6, 8]:
            x = torch.rand(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 8
            format = quantizer(0.9, log_base, bits)
            codes = format.codes(x)
            assert codes.min() >= 0 and codes.max() <= 2**bits, (bits, log_base)
            assert format(x).unique().numel() <= 2**bits + 1, (bits, log_base)
            assert torch.equal(format.dequantize(codes), format(x)), (bits, log_base)


def test_shift_is_added_before_and_offset_taken_off_after():
    x = torch.tensor([-0.17, -0.1, 0.0, 1.0], dtype=torch.float64)
    shifted = quantizer(1.17, 30, 4)(x + 0.17)
    torch.testing.assert_close(quantizer(1.17, 30, 4, shift=0.17)(x), shifted)
    torch.testing.assert_close(quantizer(1.17, 30, 4, shift=0.17, offset=0.17)(x), shifted - 0.17)
