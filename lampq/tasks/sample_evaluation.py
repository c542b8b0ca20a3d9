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
    """Scores of plans on D, or on its first images, each computed once.

    The states before the blocks of one *base* plan are kept (as many as the memory limit allows), so that a plan that
    differs from it in a late block runs only from there. Results are kept in the store: an interrupted search, or
    another search over the same plans, reads them.

    Attributes:
        images: how many images of D, the first ones, a plan is scored on.
        evaluations: plans that were computed here and not read.

    Args:
        quantized: the model that plans are applied to.
        task: images, labels and what is measured.
        store: where scores are kept.
        memory_limit: bytes that the kept states of one plan may take.
        images: the first so many images of D that plans are scored on; None is all of them.
    """

    def __init__(
        self,
        quantized: QuantizedModel,
        task: ClassificationTask,
        store: Store,
        identity: dict,
        memory_limit: int,
        images: int | None = None,
    ) -> None:
        sample = task.identity["sample"]
        limited = images is not None and images < sample["images"]
        self.images = images if limited else sample["images"]
        self.quantized = quantized
        self.task = task
        self.store = store
        self.evaluations = 0
        self._asked: set[str] = set()
        self._key = {**identity, "sample": sample, **({"first_images": images} if limited else {})}
        # Nothing is kept for all of D where searches look at a part of it: it is asked once or twice.
        self._all_of_d = SampleEvaluator(quantized, task, store, identity, 0) if limited else self
        self._memory_limit = memory_limit
        self._base: BitPlan = BitPlan.full_precision(quantized.adapter.sites)
        self._states: dict[int, Tensor] | None = None
        self._scored: tuple[str, dict[int, Tensor] | None] = ("", None)
        self._spacing: int | None = None

    def set_base(self, plan: BitPlan) -> None:
        """Evaluate later plans from the states of this one (at once, if it was the last one scored to be kept)."""
        if plan.key() != self._base.key():
            key, states = self._scored
            self._base, self._states = plan, states if key == plan.key() else None
        self._scored = ("", None)

    def score(self, plan: BitPlan, keep: bool = False) -> Score:
        """Per-image loss and correctness of a plan on the images that plans are scored on.

        Args:
            keep: hold on to the plan's states, since it may become the base; takes the memory limit once more.
        """
        self._asked.add(plan.key())
        key = {**self._key, "plan": plan.key()}
        stored = self.store.fetch("scores", key, lambda: self._evaluate(plan, keep))
        return Score(stored["loss"], stored["top1"])

    def score_on_all(self, plan: BitPlan) -> Score:
        """The same on all images of D: what is reported of the plan that a search has chosen."""
        self._asked.add(plan.key())
        return self._all_of_d.score(plan)

    @property
    def scored(self) -> int:
        """Different plans that were asked for, computed here or read: the cost of a search in evaluations of D."""
        return len(self._asked)

    def full_precision_logits(self) -> Tensor:
        """Logits of the full-precision model on all of D, ``[images, classes]``; runs only what is not kept already."""
        plan, evaluator = BitPlan.full_precision(self.quantized.adapter.sites), self._all_of_d
        return evaluator._run(plan, *evaluator._start(plan), "full precision on D")[0]

    def _evaluate(self, plan: BitPlan, keep: bool) -> dict[str, Tensor]:
        self.evaluations += 1
        start, state = self._start(plan)
        logits, states = self._run(plan, start, state, "scoring a plan on D", keep)
        if keep:
            earlier = {index: state for index, state in self._base_states().items() if index <= start}
            self._scored = (plan.key(), earlier | states)
        outcome = self.task.outcome(logits, self.task.sample_labels[: self.images])
        return {name: outcome[name] for name in ("loss", "top1")}

    def _start(self, plan: BitPlan) -> tuple[int, Tensor]:
        """The latest segment that a plan can be run from, and its input."""
        first = self.quantized.first_change(self._base, plan)
        states = self._base_states()
        start = max(index for index in states if index <= first)
        return start, states[start]

    def _base_states(self) -> dict[int, Tensor]:
        """Inputs of segments under the base plan, by segment; segment 0 (the images) is always there."""
        if self._states is None:
            states = {0: self.task.sample_images[: self.images]}
            if self._memory_limit:
                states |= self._run(self._base, 0, states[0], "running D up to each block", True)[1]
            self._states = states
        return self._states

    @torch.inference_mode()
    def _run(
        self, plan: BitPlan, start: int, state: Tensor, description: str, keep: bool = False
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run a plan from the input of segment `start`: its logits, and, to be kept, inputs of later segments."""
        adapter = self.quantized.apply(plan).adapter
        logits: list[Tensor] = []
        kept: dict[int, list[Tensor]] = {}
        # A search of many scores has a bar of its own; one for each of them would only flicker.
        for chunk in progress(state.split(CHUNK), description=description, unit="chunks", delay=2):
            for index in range(start, adapter.segments):
                if keep and index in self._boundaries(chunk, index):
                    kept.setdefault(index, []).append(chunk)
                chunk = adapter.run_segment(index, chunk)
            logits.append(chunk)
        return torch.cat(logits), {index: torch.cat(parts) for index, parts in kept.items()}

    def _boundaries(self, state: Tensor, index: int) -> range:
        """Segments whose inputs are kept: evenly spaced, as many as fit.

        Args:
            state: input of segment `index` for some images; the first block's, the largest of all, decides.
        """
        segments = self.quantized.adapter.segments
        if index == 1 or self._spacing is None:
            size = state.element_size() * state[0].numel() * self.images
            room = self._memory_limit // size
            self._spacing = math.ceil((segments - 1) / room) if room else segments
        return range(self._spacing, segments, self._spacing)
