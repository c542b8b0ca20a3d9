"""How a layer's reconstruction error is expected to change with one bit more or less (Lemma 3, Tables 2 and 9).

Weights and activations are taken as independent standard normals, quantized to ``B`` bits on the min-max grid over
plus and minus three standard deviations: ``2^B`` levels at ``-3 + j s`` with ``s = 6 / (2^B - 1)``, the offset
being real, not an integer.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from lampq.errors import LampQError

CLIPPING = 3.0
"""The grid ends at plus and minus this many standard deviations."""

MAXIMUM_BITS = 16

PAPER_TABLE_2_RATIOS: Mapping[int, float] = MappingProxyType(
    {2: 82.74, 3: 6.59, 4: 4.70, 5: 4.29, 6: 4.13, 7: 4.12, 8: 4.03}
)
"""rho_B as printed in Table 2 (2, 3 and 7 bits do not follow from the paper's own Table 9)."""


@lru_cache(maxsize=64)
def error_moments(bits: int, *, clipping_error: bool = False) -> tuple[float, float]:
    """E[X dX] and E[dX^2] of a standard normal X quantized to `bits`, dX being quantized minus original (Table 9).

    Exact up to rounding. With cells written out, integrated and summed by parts, both are differences between a sum
    over the cell borders ``m`` and an integral, ``phi`` being the normal density and ``P`` the probability of the grid:
    ``E[X dX] = s sum phi(m) - P`` and
    ``E[dX^2] = 10 P + 6 phi(3) - s sum (m erf(m / sqrt 2) + 2 phi(m))``.

    Args:
        bits: bit-width, 1 to 16.
        clipping_error: whether values beyond three standard deviations, which become plus or minus 3, count. The
            paper drops them from the integrals (while E[X^2] stays 1); so does the default.

    Raises:
        LampQError: a bit-width outside 1 to 16.
    """
    if not 1 <= bits <= MAXIMUM_BITS:
        raise LampQError(f"bits={bits}: expected errors are defined for 1 to {MAXIMUM_BITS} bits; use one of these")
    levels = 2**bits
    step = 2 * CLIPPING / (levels - 1)
    # The borders lie symmetrically around zero: m and -m contribute the same.
    borders = [(j + 0.5) * step - CLIPPING for j in range(levels // 2 - 1)]
    middle = 0.5 * _density(0.0)  # the border at zero, counted once although the sums below are doubled
    density_sum = 2 * step * math.fsum([middle, *(_density(m) for m in borders)])
    level_sum = 2 * step * math.fsum(m * math.erf(m / math.sqrt(2)) for m in borders)
    if clipping_error:
        probability, edge = 1.0, 0.0
    else:
        probability, edge = math.erf(CLIPPING / math.sqrt(2)), 2 * CLIPPING * _density(CLIPPING)
    product = density_sum - probability
    square = math.fsum([(CLIPPING**2 + 1) * probability, edge, -level_sum, -2 * density_sum])
    return product, square


def expected_error(bits: int, *, clipping_error: bool = False) -> float:
    """k(B): expected squared error of one product of a weight and an activation, both quantized to `bits`.

    ``k = E[(dW X + W dX + dW dX)^2] = 2 D + D^2 + 2 C^2 + 4 C D`` with ``C = E[X dX]`` and ``D = E[dX^2]``, the form
    of the paper's section Theoretical Analysis (Lemma 3 in the main text prints ``W dW`` for ``W dX``).

    Raises:
        LampQError: a bit-width outside 1 to 16.
    """
    product, square = error_moments(bits, clipping_error=clipping_error)
    return 2 * square + square**2 + 2 * product**2 + 4 * product * square


def expected_ratios(maximum_bits: int = MAXIMUM_BITS, *, clipping_error: bool = False) -> dict[int, float]:
    """rho_B = k(B-1) / k(B) for B = 2 ... `maximum_bits`: 87.45, 6.404, 4.708, 4.294, 4.135, 4.065, 4.032, ...

    The closed form of Table 2's last column, recomputed. With `clipping_error` the ratios fall towards 1 above
    6 bits, because finer steps do not help values that are clipped.

    Raises:
        LampQError: `maximum_bits` outside 1 to 16.
    """
    errors = {b: expected_error(b, clipping_error=clipping_error) for b in range(1, maximum_bits + 1)}
    return {b: errors[b - 1] / errors[b] for b in range(2, maximum_bits + 1)}


def paper_ratios(maximum_bits: int = MAXIMUM_BITS) -> dict[int, float]:
    """rho_B as printed in Table 2 for B = 2 ... 8; beyond 8 bits, where the table ends, the recomputed ratios.

    Raises:
        LampQError: `maximum_bits` outside 1 to 16.
    """
    return {b: PAPER_TABLE_2_RATIOS.get(b, ratio) for b, ratio in expected_ratios(maximum_bits).items()}


def gain_of_one_bit_more(loss: float, bits: int, ratios: Mapping[int, float]) -> float:
    """Expected drop of a layer's reconstruction error when it gets one bit more (Algorithm 1, line 16).

    ``L (1 - 1 / rho_{B+1})``. The paper's text swaps the formulas of gain and degradation; Algorithm 1 describes the
    moves, and this follows it.

    Args:
        loss: L, the layer's reconstruction error at `bits`.
        bits: B, its present bit-width.
        ratios: rho by bit-width.

    Raises:
        LampQError: no ratio is known for `bits` + 1.
    """
    return loss * (1 - 1 / _ratio(ratios, bits + 1))


def cost_of_one_bit_less(loss: float, bits: int, ratios: Mapping[int, float]) -> float:
    """Expected rise of a layer's reconstruction error when it loses one bit (Algorithm 1, line 17): ``L (rho_B - 1)``.

    Args:
        loss: L, the layer's reconstruction error at `bits`.
        bits: B, its present bit-width.
        ratios: rho by bit-width.

    Raises:
        LampQError: no ratio is known for `bits`.
    """
    return loss * (_ratio(ratios, bits) - 1)


def gain_of_more_bits(loss: float, bits: int, more: int, ratios: Mapping[int, float]) -> float:
    """Expected drop of a layer's reconstruction error from `bits` to `more` bits, bit by bit."""
    gain = 0.0
    for b in range(bits, more):
        gain += gain_of_one_bit_more(loss - gain, b, ratios)
    return gain


def cost_of_less_bits(loss: float, bits: int, less: int, ratios: Mapping[int, float]) -> float:
    """Expected rise of a layer's reconstruction error from `bits` to `less` bits, bit by bit."""
    cost = 0.0
    for b in range(bits, less, -1):
        cost += cost_of_one_bit_less(loss + cost, b, ratios)
    return cost


def _ratio(ratios: Mapping[int, float], bits: int) -> float:
    if bits not in ratios:
        known = f"{min(ratios)} to {max(ratios)}" if ratios else "no"
        raise LampQError(f"bits={bits}: error ratios are known for {known} bits; keep bit_set inside that range")
    return ratios[bits]


def _density(x: float) -> float:
    """Standard normal density."""
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
