"""Type scaling alpha_t: how much accuracy a unit of Fisher trace costs in each layer type (Algorithm 1, lines 1-7)."""

import logging
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.plan.sites import LAYER_TYPES, Site
from lampq.progress import progress
from lampq.tasks.score import Score, mean_and_error
from lampq.workbench import Workbench

log = logging.getLogger(__name__)

SMALLEST_DROP = 1e-4
"""A_t is at least this (a fraction of accuracy, or nats of loss), so that no type gets a zero or negative alpha."""

NOISE_LIMIT = 2.0
"""A_t counts as measured when it is at least this many of its standard errors."""


@dataclass(frozen=True)
class TypeScaling:
    """alpha_t of every layer type and what it was derived from.

    Attributes:
        alpha: alpha_t = A_t / tr(F_t), by type.
        drop: A_t by type, in the measure used (fraction of accuracy, or nats of loss).
        drop_standard_error: of A_t, over the sampled blocks and the images of D; None where one block of several was
            sampled, which does not tell how blocks differ.
        drop_standard_error_over_images: of A_t, if the sampled blocks were all that there are.
        mean_trace: average Fisher trace of the sampled layers of each type.
        measure: ``accuracy`` or ``loss``.
        blocks: the sampled blocks L_mu.
    """

    alpha: dict[str, float]
    drop: dict[str, float]
    drop_standard_error: dict[str, float | None]
    drop_standard_error_over_images: dict[str, float]
    mean_trace: dict[str, float]
    measure: str
    blocks: tuple[int, ...]

    def to_json(self) -> dict:
        return {**vars(self), "blocks": list(self.blocks)}


def sample_blocks(blocks: int, mu: float, seed: int) -> tuple[int, ...]:
    """L_mu: max(1, round(mu N)) blocks, a prefix of one seeded permutation (a larger mu contains a smaller one)."""
    order = torch.randperm(blocks, generator=torch.Generator().manual_seed(seed)).tolist()
    return tuple(order[: max(1, round(mu * blocks))])


def single_layer_plan(full_precision: BitPlan, layer: Site, bits: int, budget: Budget) -> BitPlan:
    """One layer at `bits`, every other site in full precision."""
    return full_precision.with_bits({layer.name: budget.bits_at(bits)})


def type_scaling(
    workbench: Workbench,
    budget: Budget,
    traces: dict[str, float],
    blocks: tuple[int, ...],
    beta: int,
    measure: str,
    noise: Literal["images", "blocks_and_images"] = "images",
) -> TypeScaling:
    """alpha_t = A_t / tr(F_t) from single layers of the sampled blocks quantized to beta bits, one at a time.

    Args:
        workbench: the 4N layers, and the evaluator that scores plans on D.
        budget: gives the input bits of the single layer.
        traces: Fisher trace of every layer, on the full-precision model.
        blocks: the sampled blocks L_mu.
        beta: bits of the single layer.
        measure: ``accuracy``, ``loss``, or ``auto``: loss for all types when the accuracy drop of any type is below
            `NOISE_LIMIT` standard errors, or where an image is not right or wrong.
        noise: over what the standard error is taken that ``auto`` compares with.
    """
    evaluator, full_precision = workbench.evaluator, BitPlan.full_precision(workbench.adapter.sites)
    sampled = [layer for layer in workbench.layers if layer.block in blocks]
    workbench.bank.prepare([(layer, budget.bits_at(beta)) for layer in sampled])
    evaluator.set_base(full_precision)
    base = evaluator.score(full_precision)  # line 1
    # Late blocks last: the evaluator re-runs only what follows the changed block, so time per step falls.
    scores: dict[str, Score] = {}
    for layer in progress(sampled, description=f"single layers at {beta} bits on D", unit="layers"):
        scores[layer.name] = evaluator.score(single_layer_plan(full_precision, layer, beta, budget))

    def drops(kind: str) -> tuple[dict[str, float], dict[str, float], dict[str, float | None]]:
        """Line 4: A_t of every type, its standard error over images, and over blocks and images."""
        mean, over_images, error = {}, {}, {}
        for type in LAYER_TYPES:
            mine = [scores[layer.name] for layer in sampled if layer.type == type]
            if kind == "accuracy":
                per_image = torch.stack([base.correct - score.correct for score in mine])
            else:
                per_image = torch.stack([score.loss - base.loss for score in mine])
            mean[type], over_images[type] = mean_and_error(per_image.mean(0))
            over_blocks = error_of_sampled(per_image.mean(1), workbench.adapter.blocks)
            error[type] = None if over_blocks is None else math.hypot(over_images[type], over_blocks)
        return mean, over_images, error

    chosen = measure
    if base.correct is None:
        if measure == "accuracy":
            raise LampQError("allocator.drop=accuracy: single images have only a loss here; choose loss, or auto")
        chosen = "loss"
    elif measure == "auto":
        mean, over_images, error = drops("accuracy")
        compared = over_images if noise == "images" else error
        noisy = any(
            compared[type] is None or mean[type] < NOISE_LIMIT * compared[type] or mean[type] <= 0
            for type in LAYER_TYPES
        )
        chosen = "loss" if noisy else "accuracy"
        if noisy:
            log.info("accuracy drops are within noise for at least one type: alpha_t comes from the mean loss increase")
    mean, over_images, error = drops(chosen)
    mean_trace = {  # line 5
        type: math.fsum(traces[s.name] for s in sampled if s.type == type) / len(blocks) for type in LAYER_TYPES
    }
    alpha = {type: max(mean[type], SMALLEST_DROP) / max(mean_trace[type], 1e-30) for type in LAYER_TYPES}  # line 6
    factor, unit = (100, "points") if chosen == "accuracy" else (1, "nats")
    told = ", ".join(
        f"{type} {factor * mean[type]:.3g}±{'?' if error[type] is None else format(factor * error[type], '.2g')}"
        for type in LAYER_TYPES
    )
    log.info("A_t at %d bits over %d blocks (%s): %s", beta, len(blocks), unit, told)
    if any(not math.isfinite(value) for value in alpha.values()):
        log.warning("alpha_t is not finite for some type: its Fisher traces are zero")
    return TypeScaling(alpha, mean, error, over_images, mean_trace, chosen, blocks)


def error_of_sampled(of_blocks: Tensor, blocks: int) -> float | None:
    """Standard error of a mean over some blocks of a model, drawn without replacement: none is left where all are.

    What single images add to the differences of blocks counts as theirs, so that together with an error over images it
    comes out a little too large, never too small.

    Args:
        of_blocks: ``[sampled blocks]``.
        blocks: of the model.

    Returns:
        None where a single block is known of several.
    """
    sampled = len(of_blocks)
    if sampled == blocks:
        return 0.0
    return None if sampled == 1 else mean_and_error(of_blocks)[1] * math.sqrt(1 - sampled / blocks)
