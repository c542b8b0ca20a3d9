"""Budgets that tests of allocators ask for."""

from fractions import Fraction

from lampq.plan.budget import Budget


def budget(target=3, candidates=(2, 3, 4, 5)) -> Budget:
    """Weights and inputs at `target` bits on average; what is not allocated is at the target rounded down."""
    target = Fraction(str(target))
    return Budget(target, target, candidates, "fixed", (int(target), int(target)), "target")
