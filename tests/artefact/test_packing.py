"""Codes as bit streams: compressed-tensors' layout, spelled out bit by bit."""

import pytest
import torch

from lampq.artefact.packing import pack, unpack, words
from lampq.errors import LampQError


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, 11, 16])
def test_a_row_is_a_stream_of_bits_lowest_first(bits):
    generator = torch.Generator().manual_seed(bits)
    for columns in (1, 7, 32, 33, 96):
        codes = torch.randint(0, 2**bits, (3, columns), generator=generator)
        packed = pack(codes, bits)
        assert packed.dtype == torch.int32 and packed.shape == (3, words(columns, bits))
        for row, codes_of_row in zip(packed.tolist(), codes.tolist(), strict=True):
            stream = sum((word % 2**32) << (32 * place) for place, word in enumerate(row))
            assert stream == sum(code << (bits * place) for place, code in enumerate(codes_of_row))
        assert torch.equal(unpack(packed, bits, columns).long(), codes)


def test_what_does_not_fit_is_refused():
    with pytest.raises(LampQError, match="do not fit into 2 bits"):
        pack(torch.tensor([[4]]), 2)
    with pytest.raises(LampQError, match="no rows of 40 3-bit codes"):
        unpack(torch.zeros(2, 3, dtype=torch.int32), 3, 40)
