"""Scoring plans on the sample set D, from the first changed block on."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lampq.bank.quantized_model import QuantizedModel
from lampq.models.adapter import ModelAdapter
from lampq.models.detection.pictures import Pictures, join
from lampq.plan.bit_plan import BitPlan
from lampq.progress import progress
from lampq.storage.store import Store
from lampq.tasks.score import Score, paired_change
from lampq.tasks.task import Task

CHUNK, CHUNK_ON_CPU = 48, 8
"""Images of D run at once; fixed, so that scores do not depend on a user's batch size. On a CPU so few that what a
layer reads and gives stays in its cache."""

FIRST_LOOK = 2 * CHUNK
"""Images of D that a plan is scored on in any case, before it is given up."""


def images_at_once(adapter: ModelAdapter) -> int:
    """How many images of D the model runs at once."""
    return CHUNK_ON_CPU if next(adapter.network.parameters()).device.type == "cpu" else CHUNK


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
        task: Task,
        store: Store,
        identity: dict,
        memory_limit: int,
        images: int | None = None,
    ) -> None:
        limited = images is not None and images < task.sample_count
        self.images = images if limited else task.sample_count
        self.quantized = quantized
        self.task = task
        self.store = store
        self.evaluations = 0
        self._losses: dict[str, float] = {}
        self._asked: dict[str, BitPlan] = {}
        self._whole_identity = identity
        self._identity = {**identity, **({"first_images": images} if limited else {})}
        # Nothing is kept for all of D where searches look at a part of it: it is asked once or twice.
        self._all_of_d = SampleEvaluator(quantized, task, store, identity, 0) if limited else self
        self._memory_limit = memory_limit
        self._base: BitPlan = BitPlan.full_precision(quantized.adapter.sites)
        self._states: dict[int, Pictures] | None = None
        self._scored: tuple[str, dict[int, Pictures] | None] = ("", None)
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
        self._asked.setdefault(plan.key(), plan)
        stored = self.store.fetch("scores", self._key(plan), lambda: self._evaluate(plan, keep))
        self._losses[plan.key()] = stored["loss"].mean().item()
        return Score(stored["loss"], stored.get("top1"))

    def score_unless_worse(self, plan: BitPlan, rival: BitPlan, errors: float, keep: bool = False) -> Score:
        """As `score`, but a plan that is clearly worse than another is given up: then of the first images alone.

        A score that the store has whole is cut where its computation would have stopped, so that what comes out does
        not depend on what was scored before. Where a plan was given up is kept apart from whole scores.

        Args:
            rival: the other plan.
            errors: standard errors of the paired loss that the plan must be worse by (see `given_up_after`).
            keep: see `score`; states of a plan that was given up are not kept.
        """
        best, whole = self.score(rival).loss, self._key(plan)
        self._asked.setdefault(plan.key(), plan)

        def compute() -> dict[str, Tensor]:
            outcome = self._evaluate(plan, keep, lambda loss: given_up_after(loss, best, errors) is not None)
            return outcome if len(outcome["loss"]) < self.images else self.store.fetch("scores", whole, lambda: outcome)

        if self.store.holds("scores", whole):
            stored = self.store.fetch("scores", whole, compute)
        else:
            part = {**whole, "unless_worse_than": rival.key(), "standard_errors": errors}
            stored = self.store.fetch("scores", part, compute)
        images = given_up_after(stored["loss"], best, errors) or len(stored["loss"])
        if images == self.images:
            self._losses[plan.key()] = stored["loss"].mean().item()
        correct = stored.get("top1")
        return Score(stored["loss"][:images], None if correct is None else correct[:images])

    def on_first(self, images: int | None) -> "SampleEvaluator":
        """One that scores plans on fewer images of D, the first ones; itself where there are no more, or for None."""
        if images is None or images >= self.images:
            return self
        model = self.quantized
        fewer = SampleEvaluator(model, self.task, self.store, self._whole_identity, self._memory_limit, images)
        fewer._asked = self._asked  # its plans are this one's
        return fewer

    def score_on_all(self, plan: BitPlan) -> Score:
        """The same on all images of D: what is reported of the plan that a search has chosen."""
        self._asked.setdefault(plan.key(), plan)
        return self._all_of_d.score(plan)

    def best_first(self) -> list[BitPlan]:
        """The plans that were scored whole, by their mean loss."""
        return [self._asked[key] for key in sorted(self._losses, key=self._losses.__getitem__)]

    @property
    def scored(self) -> int:
        """Different plans that were asked for, computed here or read: the cost of a search in evaluations of D."""
        return len(self._asked)

    def full_precision_logits(self) -> Tensor:
        """Logits of the full-precision model on all of D, ``[images, classes]``; runs only what is not kept already."""
        plan, evaluator = BitPlan.full_precision(self.quantized.adapter.sites), self._all_of_d

        def logits(adapter: ModelAdapter, state: Pictures, first: int) -> dict[str, Tensor]:
            return {"logits": adapter.run_segment(adapter.segments - 1, state)}

        return evaluator._run(plan, *evaluator._start(plan), "full precision on D", logits)[0]["logits"]

    def _key(self, plan: BitPlan) -> dict:
        return {**self._identity, "sample": self.task.identity["sample"], "plan": plan.key()}

    def _evaluate(
        self, plan: BitPlan, keep: bool, hopeless: Callable[[Tensor], bool] | None = None
    ) -> dict[str, Tensor]:
        """Results of a plan; of the first images alone where it is hopeless by their losses."""
        self.evaluations += 1
        start, state = self._start(plan)

        def judged(adapter: ModelAdapter, state: Pictures, first: int) -> dict[str, Tensor]:
            return self.task.judge(adapter, state, self.task.sample_labels[first : first + len(state)])

        outcome, states = self._run(plan, start, state, "scoring a plan on D", judged, keep, hopeless)
        if keep and len(outcome["loss"]) == self.images:
            earlier = {index: state for index, state in self._base_states().items() if index <= start}
            self._scored = (plan.key(), earlier | states)
        return outcome

    def _start(self, plan: BitPlan) -> tuple[int, Pictures]:
        """The latest segment that a plan can be run from, and its input."""
        first = self.quantized.first_change(self._base, plan)
        states = self._base_states()
        start = max(index for index in states if index <= first)
        return start, states[start]

    def _base_states(self) -> dict[int, Pictures]:
        """Inputs of segments under the base plan, by segment; segment 0 (the images) is always there."""
        if self._states is None:
            states = {0: self.task.sample_images[: self.images]}
            if self._memory_limit:
                states |= self._run(self._base, 0, states[0], "running D up to each block", None, True)[1]
            self._states = states
        return self._states

    @torch.inference_mode()
    def _run(
        self,
        plan: BitPlan,
        start: int,
        state: Pictures,
        description: str,
        finish: Callable[[ModelAdapter, Pictures, int], dict[str, Tensor]] | None,
        keep: bool = False,
        hopeless: Callable[[Tensor], bool] | None = None,
    ) -> tuple[dict[str, Tensor], dict[int, Pictures]]:
        """Run a plan from the input of segment `start`.

        Args:
            finish: makes the results of some images, ``[images, ...]``, of the tail's inputs and their first number.
            keep: keep inputs of later segments.
            hopeless: whether to stop, by the losses so far.

        Returns:
            What `finish` gives of all images (or those before it stopped), and the kept inputs, by segment.
        """
        adapter = self.quantized.apply(plan).adapter
        results: list[dict[str, Tensor]] = []
        kept: dict[int, list[Pictures]] = {}
        done = 0
        # A search of many scores has a bar of its own; one for each of them would only flicker.
        for chunk in progress(state.split(images_at_once(adapter)), description=description, unit="chunks", delay=2):
            for index in range(start, adapter.segments):
                if keep and index in self._boundaries(chunk, index):
                    kept.setdefault(index, []).append(chunk)
                if index < adapter.segments - 1:
                    chunk = adapter.run_segment(index, chunk)
            if finish is not None:
                results.append(finish(adapter, chunk, done))
                if hopeless is not None and hopeless(torch.cat([result["loss"] for result in results])):
                    break
            done += len(chunk)
        joined = {name: torch.cat([result[name] for result in results]) for name in results[0]} if results else {}
        return joined, {index: join(parts) for index, parts in kept.items()}

    def _boundaries(self, state: Pictures, index: int) -> range:
        """Segments whose inputs are kept: evenly spaced, as many as fit.

        Args:
            state: input of segment `index` for some images; the first block's, the largest of all, decides.
        """
        segments = self.quantized.adapter.segments
        if index == 1 or self._spacing is None:
            room = self._memory_limit * len(state) // (state.nbytes * self.images)
            self._spacing = math.ceil((segments - 1) / room) if room else segments
        return range(self._spacing, segments, self._spacing)


def given_up_after(loss: Tensor, other: Tensor, errors: float) -> int | None:
    """After how many images a plan is clearly worse than another; None where it is not, as far as it is known.

    That is when its mean loss over the first images is higher by more than so many standard errors of the paired
    difference: looked at after `FIRST_LOOK` images and every further `CHUNK`, while there are images left.

    Args:
        loss: of the plan, ``[images looked at]``.
        other: of the other plan, ``[images]``.
        errors: standard errors.
    """
    for images in range(FIRST_LOOK, len(other), CHUNK):
        if images > len(loss):
            break
        change, error = paired_change(Score(loss[:images]), Score(other[:images]))
        if change > errors * error:
            return images
    return None
