"""Codes as dense bit streams: the layout of compressed-tensors' format ``pack-quantized``.

A row of codes is a stream of bits, the lowest bit of the first code first, in 32-bit words; the last word of a row is
filled up with zeros. compressed-tensors counts codes from -2^(bits-1) on and adds 2^(bits-1) before it packs: what lies
in the stream are the unsigned codes from 0 to 2^bits - 1 in either case.
"""

import math

import numpy as np
import torch
from torch import Tensor

from lampq.errors import LampQError

WORD = 32
"""Bits of a word."""


def words(columns: int, bits: int) -> int:
    """32-bit words of a row of so many codes."""
    return math.ceil(columns * bits / WORD)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes as words.

    Args:
        codes: integers from 0 to 2^bits - 1, ``[rows, columns]``.
        bits: 1 to 16.

    Returns:
        int32 ``[rows, words]``, on the CPU.

    Raises:
        LampQError: a code that its bits cannot hold.
    """
    values = codes.detach().cpu().numpy().astype(np.int64)
    if values.size and not 0 <= values.min() <= values.max() < 2**bits:
        raise LampQError(f"codes from {values.min()} to {values.max()} do not fit into {bits} bits")
    rows, columns = values.shape
    stream = np.zeros((rows, words(columns, bits) * WORD), dtype=np.uint8)
    stream[:, : columns * bits] = ((values[:, :, None] >> np.arange(bits)) & 1).reshape(rows, -1)
    return torch.from_numpy(np.packbits(stream, axis=1, bitorder="little").view("<i4").astype(np.int32))


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """Codes of words: what `pack` was given, int32 ``[rows, columns]``.

    Args:
        packed: int32 ``[rows, words]``.

    Raises:
        LampQError: rows of another length than so many codes have.
    """
    if packed.dim() != 2 or packed.dtype != torch.int32 or packed.shape[1] != words(columns, bits):
        raise LampQError(
            f"packed codes of shape {tuple(packed.shape)} ({packed.dtype}) are no rows of {columns} {bits}-bit codes"
        )
    octets = packed.contiguous().cpu().numpy().astype("<i4").view(np.uint8).reshape(len(packed), -1)
    stream = np.unpackbits(octets, axis=1, bitorder="little", count=columns * bits)
    weights = (1 << np.arange(bits)).astype(np.int32)
    return torch.from_numpy(stream.reshape(len(packed), columns, bits).astype(np.int32) @ weights)
