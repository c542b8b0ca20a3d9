"""Random allocation problems, worked examples, and the answer by trying every plan."""

import itertools
import math
from fractions import Fraction

import numpy as np

from lampq.allocation.solvers.allocation_problem import AllocationProblem
from lampq.allocation.solvers.dynamic_program import Allocation

# (sizes, Omega, gamma, bit set, target average) -> (bits, objective), worked by hand.
WORKED = [
    ((1, 1), (16, 1), 4, range(1, 6), 3, [4, 2], 0.125),
    ((3, 1), (8, 1), 2, range(2, 5), 3, [3, 3], 1.125),
    ((3, 1, 4, 4), (9, 1, 4, 1), 4, range(2, 6), 3, [4, 4, 3, 2], 0.1640625),
    ((3, 1, 4, 4), (9, 1, 4, 1), 20, range(2, 6), 3, [3, 3, 3, 3], 0.001875),
    ((3, 1, 4, 4), (90, 1, 40, 1), 2, range(1, 6), 3, [5, 1, 4, 1], 6.3125),
]


def solved(solver, *instance) -> Allocation:
    """What a solver makes of costs, sizes, bit set and budget."""
    return solver(AllocationProblem.checked(*instance))


def spent(bits: list[int], sizes: list[int]) -> int:
    return sum(b * c for b, c in zip(bits, sizes, strict=True))


def transformer_sizes(width: int, blocks: int) -> list[int]:
    return [3 * width**2, width**2, 4 * width**2, 4 * width**2] * blocks


def random_instance(seed: int, layers: int, sizes: list[int] | None = None):
    """(costs, sizes, bit set, budget): gamma^-B Omega with Omega over several orders of magnitude."""
    rng = np.random.default_rng(seed)
    sizes = sizes or [int(c) for c in rng.integers(1, 10, layers)]
    lowest, highest = int(rng.integers(1, 3)), int(rng.integers(4, 9))
    bits = list(range(lowest, highest + 1))
    omega = np.exp(rng.normal(0, 2, layers))
    costs = omega[:, None] * float(rng.choice([2, 4, 10, 20])) ** -np.array(bits)
    average = lowest + Fraction(int(rng.integers(0, 8 * (highest - lowest))), 8)
    return costs, sizes, bits, average * sum(sizes)


def brute_force(costs, sizes, bits, budget) -> tuple[float, list[int]]:
    """The optimum, and of all plans within 1e-6 of it the one that gives the earliest layers the most bits."""
    plans = []
    for columns in itertools.product(range(len(bits)), repeat=len(sizes)):
        plan = [bits[k] for k in columns]
        if spent(plan, sizes) <= budget:
            plans.append((math.fsum(costs[i][k] for i, k in enumerate(columns)), plan))
    optimum = min(cost for cost, _ in plans)
    return optimum, max(plan for cost, plan in plans if cost <= optimum + 1e-6 * abs(optimum))
