"""Losses of pairs of layers quantized together: what two of them cost beyond the sum of each alone (CLADO)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.plan.groups import Group
from lampq.progress import progress
from lampq.workbench import Workbench


def neighbours(one: Group, other: Group) -> bool:
    """Whether a layer of one is in the same block as a layer of the other, or in the block before or after it; what is
    in no block has no neighbours."""
    blocks, others = ([s.block for s in group.layers if s.block is not None] for group in (one, other))
    return any(abs(a - b) <= 1 for a in blocks for b in others)


PAIRS = {"all": lambda one, other: True, "near": neighbours, "diagonal": lambda one, other: False}
"""Which pairs of groups are measured; the others are taken to add up."""


@dataclass(frozen=True)
class PairwiseLosses:
    """Mean losses on D above that of the full-precision model, in nats.

    Attributes:
        full_precision: mean loss of the full-precision model.
        single: L_i(b), an array ``[bits of group i]`` for each group.
        pair: L_ij(b, b'), an array ``[bits of group i, bits of group j]`` for each measured pair i < j.
    """

    full_precision: float
    single: list[np.ndarray]
    pair: dict[tuple[int, int], np.ndarray]

    def cross_terms(self) -> dict[tuple[int, int], np.ndarray]:
        """``L_ij(b, b') - L_i(b) - L_j(b')`` of each measured pair: 0 where the two losses add up."""
        return {(i, j): both - self.single[i][:, None] - self.single[j][None, :] for (i, j), both in self.pair.items()}

    def matrix(self) -> np.ndarray:
        """CLADO's matrix G ``[entries, entries]``, one entry for each group and bit-width, groups one after another.

        The diagonal is ``2 L_i(b)``, outside it are the cross terms, 0 for what was not measured and between the
        bit-widths of one group, of which a plan has only one. With x the 0-1 vector of a plan's entries, ``x^T G x``
        is twice the loss that the plan is expected to add: up to second order, 2 L_ij for two groups alone.
        """
        start = np.concatenate([[0], np.cumsum([len(row) for row in self.single])])
        matrix = np.diag(2 * np.concatenate(self.single))
        for (i, j), terms in self.cross_terms().items():
            rows, columns = slice(start[i], start[i + 1]), slice(start[j], start[j + 1])
            matrix[rows, columns], matrix[columns, rows] = terms, terms.T
        return matrix


def pairwise_losses(workbench: Workbench, budget: Budget, groups: Sequence[Group], pairs: str) -> PairwiseLosses:
    """Score every group at every bit-width it may have, alone and together with others, all else in full precision.

    4N layers at |B| bit-widths are ``4N |B|`` single scores and ``4N (4N - 1) / 2 |B|^2`` pairs. Each score lies in
    the store by itself, so an interrupted measurement goes on at the next one.

    Args:
        groups: layers that share their bits (single layers where nothing is tied), ordered by their first layers.
        pairs: ``all``; ``near``: see `neighbours`; ``diagonal``: none. Two pinned groups are no pair: whatever is
            chosen, they add the same.

    Raises:
        LampQError: a loss is not finite, or the base quantizer is not defined at a bit-width needed.
    """
    evaluator, full_precision = workbench.evaluator, BitPlan.full_precision(workbench.adapter.sites)
    workbench.bank.prepare([(s, pair) for g in groups for s in g.layers for pair in g.pairs.values()])
    every = range(len(groups))
    partners = {
        i: [
            j
            for j in every[i + 1 :]
            if PAIRS[pairs](groups[i], groups[j]) and not (groups[i].pinned and groups[j].pinned)
        ]
        for i in every
    }

    def with_group(plan: BitPlan, group: Group, bits: int) -> BitPlan:
        return plan.with_bits({s.name: group.pairs[bits] for s in group.layers})

    def loss(plan: BitPlan, where: str, keep: bool = False) -> float:
        value = evaluator.score(plan, keep).mean_loss
        if not math.isfinite(value):
            raise LampQError(
                f"bit_set: the loss on D with {where} is {value}; leave the smallest bits out of the bit set"
            )
        bar.update()
        return value

    total = 1 + sum(len(groups[i].bits) * (1 + sum(len(groups[j].bits) for j in partners[i])) for i in every)
    bar = progress(description="losses of single layers and pairs on D", total=total, unit="scores")
    try:
        evaluator.set_base(full_precision)
        base = loss(full_precision, "nothing quantized")
        single = [np.empty(len(group.bits)) for group in groups]
        pair = {(i, j): np.empty((len(groups[i].bits), len(groups[j].bits))) for i in every for j in partners[i]}
        for i, group in enumerate(groups):
            for row, bits in enumerate(group.bits):
                # Each plan starts where it differs from the base. That is the last group quantized alone, whose
                # states come with its own score; what runs again for the next one is its block and what follows.
                alone, where = with_group(full_precision, group, bits), f"{group.name} at {bits} bits"
                single[i][row] = loss(alone, where, keep=bool(partners[i])) - base
                if partners[i]:
                    evaluator.set_base(alone)
                for j in partners[i]:
                    for column, other in enumerate(groups[j].bits):
                        both = with_group(alone, groups[j], other)
                        where_both = f"{where} and {groups[j].name} at {other} bits"
                        pair[i, j][row, column] = loss(both, where_both) - base
    finally:
        bar.close()
    return PairwiseLosses(base, single, pair)
