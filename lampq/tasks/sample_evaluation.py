"""Scoring plans on the sample set D, from the first changed block on."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lampq.plan import BitPlan
from lampq.progress import progress
from lampq.quantized_model import QuantizedModel
from lampq.store import Store
from lampq.tasks.classification import ClassificationTask

CHUNK = 50
"""Images of D run at once; fixed, so that scores do not depend on a user's batch size."""


@dataclass(frozen=True)
class Score:
    """Per-image results of one plan on D.

    Attributes:
        loss: cross-entropy in nats, float64 ``[images]``.
        correct: 1 where top-1 is right, else 0, float64 ``[images]``.
    """

    loss: Tensor
    correct: Tensor

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy as a fraction."""
        return self.correct.mean().item()

    @property
    def mean_loss(self) -> float:
        return self.loss.mean().item()

    def better_than(self, other: "Score") -> bool:
        """More images right, or as many and a lower mean loss."""
        return (self.correct.sum().item(), -self.mean_loss) > (other.correct.sum().item(), -other.mean_loss)


class SampleEvaluator:
    """Scores of plans on D, each computed once.

    The states before the blocks of one *base* plan are kept (as many as the memory limit allows), so that a plan that
    differs from it in a late block runs only from there. Results are kept in the store: an interrupted search, or
    another search over the same plans, reads them.

    Args:
        quantized: the model that plans are applied to.
        task: images, labels and what is measured.
        store: where scores are kept.
        memory_limit: bytes that the kept states may take.
    """

    def __init__(
        self, quantized: QuantizedModel, task: ClassificationTask, store: Store, identity: dict, memory_limit: int
    ) -> None:
        self.quantized = quantized
        self.task = task
        self.store = store
        self.evaluations = 0
        self._identity = identity
        self._memory_limit = memory_limit
        self._base: BitPlan = BitPlan.full_precision(quantized.adapter.sites)
        self._states: dict[int, Tensor] | None = None

    def set_base(self, plan: BitPlan) -> None:
        """Evaluate later plans from the states of this one."""
        if plan.key() != self._base.key():
            self._base, self._states = plan, None

    def score(self, plan: BitPlan) -> Score:
        """Per-image loss and correctness of a plan on D."""
        key = {**self._identity, "plan": plan.key(), "sample": self.task.identity["sample"]}
        stored = self.store.fetch("scores", key, lambda: self._evaluate(plan))
        return Score(stored["loss"], stored["top1"])

    @torch.inference_mode()
    def full_precision_logits(self) -> Tensor:
        """Logits of the full-precision model on D, ``[images, classes]``; runs only what is not kept already."""
        plan = BitPlan.full_precision(self.quantized.adapter.sites)
        start, states = self._start(plan)
        adapter = self.quantized.apply(plan).adapter
        return torch.cat([adapter.run(state, start) for state in states.split(CHUNK)])

    @torch.inference_mode()
    def _evaluate(self, plan: BitPlan) -> dict[str, Tensor]:
        self.evaluations += 1
        start, states = self._start(plan)
        self.quantized.apply(plan)
        adapter, labels = self.quantized.adapter, self.task.sample_labels
        results: list[dict[str, Tensor]] = []
        chunks = zip(states.split(CHUNK), labels.split(CHUNK), strict=True)
        for state, label in progress(chunks, description="scoring a plan on D", total=-(-len(labels) // CHUNK)):
            results.append(self.task.outcome(adapter.run(state, start), label))
        return {name: torch.cat([result[name] for result in results]) for name in ("loss", "top1")}

    def _start(self, plan: BitPlan) -> tuple[int, Tensor]:
        """The latest segment that a plan can be run from, and its input."""
        first = self.quantized.first_change(self._base, plan)
        states = self._base_states()
        start = max(index for index in states if index <= first)
        return start, states[start]

    def _base_states(self) -> dict[int, Tensor]:
        """Inputs of segments under the base plan, by segment; segment 0 (the images) is always there."""
        if self._states is not None:
            return self._states
        images = self.task.sample_images
        self._states = {0: images}
        self.quantized.apply(self._base)
        adapter = self.quantized.adapter
        kept: dict[int, list[Tensor]] = {}
        for chunk in progress(images.split(CHUNK), description="running D up to each block", unit="chunks"):
            state = chunk
            for index in range(adapter.segments - 1):
                state = adapter.run_segment(index, state)
                if index == 0 and not kept:
                    kept = {boundary: [] for boundary in self._boundaries(state, len(images))}
                if index + 1 in kept:
                    kept[index + 1].append(state)
        self._states |= {index: torch.cat(parts) for index, parts in kept.items()}
        return self._states

    def _boundaries(self, state: Tensor, images: int) -> list[int]:
        """Which segments' inputs to keep: evenly spaced, as many as fit (the first block's input is the largest)."""
        size = state.element_size() * state[0].numel() * images
        segments = self.quantized.adapter.segments
        room = self._memory_limit // size
        stride = math.ceil((segments - 1) / room) if room else segments
        return list(range(stride, segments, stride))
