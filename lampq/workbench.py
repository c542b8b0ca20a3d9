"""The workbench: everything that an allocator may look at, and the one place that opens it.

A run of the command line, `lampq.quantize` and the tests open it here. Validation images are not on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from lampq.bank.block_bank import BlockBank
from lampq.bank.layer_bank import LayerBank
from lampq.bank.quantized_model import QuantizedModel
from lampq.bank.realisation import Realisation
from lampq.base_quantizers.base import BaseQuantizer
from lampq.calibration.observation import Observer
from lampq.models.adapter import ModelAdapter
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget, packed_bytes
from lampq.plan.sites import Site
from lampq.storage.store import Store
from lampq.tasks.sample_evaluation import SampleEvaluator
from lampq.tasks.task import Task

MEMORY = 4 * 2**30
"""Bytes for what is kept to be read again, where nothing else is said."""

SCORED_WITH = {
    "surrogate": "plans are scored with the independent states of {}: the surrogate of what is built in the end",
    "block_bank": "plans are scored with blocks realised by {} at equal bits, each behind equal bits",
    "exact": "every plan that is scored is realised by {}",
}
"""What is said of a search with a sequential base quantizer."""


@dataclass(frozen=True)
class Workbench:
    """Everything an allocator may look at.

    Attributes:
        adapter: the full-precision model.
        task: calibration images and the sample set D.
        bank: calibrated sites of the base quantizer.
        evaluator: scores plans on D.
        store: keeps whatever is expensive.
        seed: for everything random.
        realisation: with a sequential base quantizer, what becomes of a whole plan; else None.
        limited_to: the first so many images of D that plans are scored on, where this was asked for.
        scored_by: with a sequential base quantizer, what plans are scored with where it is not its independent states:
            whole realised plans, or plans put together from realised blocks.
    """

    adapter: ModelAdapter
    task: Task
    bank: LayerBank
    evaluator: SampleEvaluator
    store: Store
    seed: int
    realisation: Realisation | None = None
    limited_to: int | None = None
    scored_by: Realisation | BlockBank | None = None

    @property
    def layers(self) -> list[Site]:
        """The 4N layers, in the order of execution."""
        return [site for site in self.adapter.sites if site.allocated]

    @property
    def built_from(self) -> LayerBank | Realisation:
        """Where the modules of a chosen plan come from: the bank, or what a sequential method makes of whole plans."""
        return self.bank if self.realisation is None else self.realisation

    @property
    def scored_from(self) -> LayerBank | Realisation | BlockBank:
        """Where the modules of the plans come from that are scored on D: metrics and estimates of quantized layers are
        to be taken from the same, and stored under its identity."""
        return self.bank if self.scored_by is None else self.scored_by

    def scored_model(self) -> QuantizedModel:
        """A model of its own that plans are applied to, as they are scored on D."""
        return QuantizedModel(self.adapter, self.bank, self.scored_by)

    def prepare(self, wanted: Sequence[tuple[Site, Bits]]) -> None:
        """Calibrate what is missing of single sites, side by side. Where plans are realised, `alternatives` does it."""
        if self.scored_by is None:
            self.bank.prepare(list(wanted))

    def alternatives(
        self, wanted: Mapping[Site, Sequence[Bits]], plan: BitPlan | None = None
    ) -> dict[str, list[nn.Module]]:
        """Modules of single sites at other bits than a plan's, in the network that plans are scored with.

        Args:
            wanted: bits, by site.
            plan: bits of all other sites; None: full precision.
        """
        around = BitPlan.full_precision(self.adapter.sites) if plan is None else plan
        return {
            site.name: [self.scored_from.site_module(around.with_bits({site.name: bits}), site) for bits in several]
            for site, several in wanted.items()
        }

    @property
    def looked_at(self) -> dict[str, object]:
        """What a search looks at on D, for the origin of its plan (JSON-able)."""
        judged: dict[str, object] = {"judged": self.task.judged}
        if self.limited_to is not None:
            judged["evaluation_images"] = self.limited_to
        if self.realisation is not None:
            method = self.bank.base_quantizer
            judged["scored_with"] = method.search
            if method.search_steps is not None:
                judged["search_steps"] = method.search_steps
            if shared := self.sample_trained_on:
                judged["sample_images_trained_on"] = shared
        return judged

    @property
    def sample_trained_on(self) -> int:
        """How many images of D a sequential base quantizer works on: what these say of a plan is too good."""
        if self.realisation is None:
            return 0
        return self.task.sample_trained_on(self.bank.base_quantizer.training_images)

    @property
    def told_of_search(self) -> str | None:
        """What a reader of the log should know of how plans are scored; None where it is as they are built."""
        if self.realisation is None:
            return None
        method = self.bank.base_quantizer
        steps = "" if method.search_steps is None else f"; blocks are trained for {method.search_steps} steps there"
        return SCORED_WITH[method.search].format(method.name) + steps

    def found(self, plan: BitPlan) -> dict[str, object]:
        """What the plan that a search has chosen reaches on all of D, and what the search looked at."""
        score = self.evaluator.score_on_all(plan)
        reached = {} if score.correct is None else {f"sample_{self.task.judged}": 100 * score.accuracy}
        reached |= {"sample_loss": score.mean_loss, "sample_images": len(score.loss)}
        reached |= {"evaluation_images": self.evaluator.images, "evaluations": self.evaluator.scored}
        return reached if self.realisation is None else {**reached, "search": self.bank.base_quantizer.search}

    def build(self, plan: BitPlan) -> None:
        """Calibrate, or realise in order, what is missing of a plan."""
        if self.realisation is None:
            self.bank.calibrate(plan)
        else:
            self.realisation.states(plan)

    def sizes(self, plan: BitPlan) -> dict[str, int]:
        """Bytes of the model packed at a plan's bits, and in full precision (see `lampq.plan.budget.packed_bytes`)."""
        adapter, stored = self.adapter, self.built_from.quantizer_parameters(plan)
        packed = packed_bytes(adapter.sites, plan, adapter.parameters(), stored)
        return {"packed_bytes": packed, "full_precision_bytes": 4 * adapter.parameters()}

    def quantized_model(self) -> QuantizedModel:
        """A model of its own that plans are applied to, as they are built in the end."""
        return QuantizedModel(self.adapter, self.bank, self.realisation)


def open_workbench(
    adapter: ModelAdapter,
    task: Task,
    base_quantizer: BaseQuantizer,
    store: Store,
    budget: Budget,
    *,
    observer: Observer | None = None,
    prefix_memory: int = MEMORY,
    images: int | None = None,
) -> Workbench:
    """The bank, what a sequential method makes of whole plans, and what scores plans on D.

    Args:
        adapter: the full-precision model, with tensors as sites where the base quantizer quantizes them.
        budget: what a bank of blocks is built around.
        observer: what calibration observes; None for one of its own.
        prefix_memory: bytes for activations that are kept so that a changed plan runs from its first changed block on.
        images: the first so many images of D that plans are scored on; None is all of them.
    """
    observer = observer or observer_of(adapter, task, base_quantizer, MEMORY)
    bank = LayerBank(base_quantizer, adapter, observer, task.identity["calibration"], store)
    realisation = None
    if base_quantizer.sequential:
        count = base_quantizer.training_images
        realisation = Realisation(bank, lambda: task.training_images(count), task.training_identity(count), task.seed)
    scored = _scored_with(realisation, budget)
    identity = (scored or bank).identity
    # Halved: states of the base, and of a plan that may become it.
    quantized = QuantizedModel(adapter, bank, scored)
    evaluator = SampleEvaluator(quantized, task, store, identity, prefix_memory // 2, images)
    return Workbench(adapter, task, bank, evaluator, store, task.seed, realisation, images, scored)


def observer_of(adapter: ModelAdapter, task: Task, base_quantizer: BaseQuantizer, memory: int) -> Observer:
    """What calibration observes, in the precision that the method asks for.

    Args:
        memory: bytes for what is held (see `Observer`).
    """
    return Observer(adapter, lambda: task.calibration_images, memory, base_quantizer.dtype)


def _scored_with(realisation: Realisation | None, budget: Budget) -> Realisation | BlockBank | None:
    """What plans are scored with in a search: whole realised plans, put together from blocks, or (None) the bank."""
    if realisation is None or realisation.base_quantizer.search == "surrogate":
        return None
    method = realisation.base_quantizer
    trained = realisation if method.in_search is method else realisation.by(method.in_search)
    return trained if method.search == "exact" else BlockBank(trained, budget)
