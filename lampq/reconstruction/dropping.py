"""QDrop's random dropping of quantization: an element is quantized with some probability, else in full precision.

Wei et al., QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-Training Quantization, ICLR 2022.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

GRAIN = 256
"""Probabilities are rounded to multiples of 1 / 256: one random byte decides about one element."""


class Dropping:
    """Which elements are quantized, drawn anew in every call from the generator of the thread that runs the block.

    Args:
        probability: that an element is quantized.
    """

    def __init__(self, probability: float) -> None:
        self._threshold = round(probability * GRAIN)
        self._local = threading.local()

    @contextmanager
    def drawn_from(self, generator: np.random.Generator) -> Iterator[None]:
        """Drop while the block runs in this thread; elsewhere everything is quantized."""
        self._local.generator = generator
        try:
            yield
        finally:
            self._local.generator = None

    def quantized(self, like: Tensor) -> Tensor | None:
        """1 where an element is quantized, else 0, shape of `like`; None for 1 everywhere."""
        generator = getattr(self._local, "generator", None)
        if generator is None or self._threshold == GRAIN:
            return None
        return quantized_elements(generator, like, self._threshold)


def quantized_elements(generator: np.random.Generator, like: Tensor, threshold: int) -> Tensor:
    """1 with probability ``threshold / 256``, else 0; shape, type, device and order in memory of `like`.

    Numbers and not truth values: arithmetic on the former is many times faster than choosing by the latter.
    """
    drawn = np.frombuffer(generator.bytes(like.numel()), np.uint8)
    chosen = torch.from_numpy((drawn < threshold).view(np.uint8))
    quantized = torch.empty_like(like, requires_grad=False)
    quantized.as_strided(chosen.shape, (1,)).copy_(chosen)
    return quantized


def mixed(quantized: Tensor, full_precision: Tensor, generator: np.random.Generator, probability: float) -> Tensor:
    """Elements of either, the quantized ones with the given probability."""
    threshold = round(probability * GRAIN)
    if threshold in (0, GRAIN):
        return quantized if threshold else full_precision
    return torch.lerp(full_precision, quantized, quantized_elements(generator, quantized, threshold))
