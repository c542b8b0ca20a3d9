"""One run, from a checked configuration to a recorded result: Algorithm 1 of the paper, top to bottom."""

import contextlib
import logging
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lampq.allocation.base import Allocator, Search
from lampq.allocation.uniform import Uniform
from lampq.bank import LayerBank
from lampq.budgets import packed_bytes, realised_costs
from lampq.calibration.observation import Observer
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.plan import BitPlan
from lampq.quantized_model import QuantizedModel
from lampq.record import RunRecord
from lampq.report.bit_allocation import draw_bit_allocation
from lampq.settings import Settings
from lampq.store import Store
from lampq.tasks.classification import ClassificationTask
from lampq.tasks.sample_evaluation import SampleEvaluator
from lampq.tasks.validation import accuracy_metrics, validate
from lampq.tracking import Tracker, open_tracker, rebuild_runs_csv

log = logging.getLogger(__name__)

GATE = 0.3
"""Points of top-1 by which a full validation set may disagree with the published full-precision accuracy."""


@dataclass(frozen=True)
class Prepared:
    """What several runs of one configuration share: the full-precision model and its images."""

    adapter: ModelAdapter
    task: ClassificationTask
    observer: Observer
    device: torch.device


def run(settings: Settings) -> list[RunRecord]:
    """Quantize and evaluate; first at uniform bits for comparison (``baseline=uniform``), then as chosen.

    Returns:
        The records, the chosen allocator's last.
    """
    device = torch.device(settings.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    prepared = prepare(settings, device)
    allocators: list[Allocator] = [settings.allocator]
    compares = settings.baseline == "uniform" and settings.allocator.searches
    if compares and settings.budget.weight_bits.denominator == 1:
        allocators.insert(0, Uniform())
    return [run_one(settings, prepared, allocator) for allocator in allocators]


def prepare(settings: Settings, device: torch.device) -> Prepared:
    """Build the model and name the images; nothing is run yet."""
    log.info("model %s", settings.model.name)
    adapter = settings.model.build(device)
    task = ClassificationTask(adapter, settings.dataset, settings.seed, device)
    for note in task.notes:
        log.info(note)
    return Prepared(adapter, task, Observer(adapter, lambda: task.calibration_images), device)


def run_one(settings: Settings, prepared: Prepared, allocator: Allocator) -> RunRecord:
    """One row of a table: choose the bits, quantize, evaluate, record. A finished run is not computed again."""
    record = RunRecord(settings.results, identity(settings, prepared, allocator), settings.resolved)
    if record.finished and not settings.force:
        log.info("%s: finished before, see %s", allocator.name, record.folder)
        return record
    record.start(str(prepared.device), torch.get_num_threads(), prepared.task.dataset.listing(settings.seed))
    tracker = open_tracker(
        settings.logger, fingerprint=record.fingerprint, config=settings.resolved, folder=record.folder
    )
    failed = True
    try:
        with store_of(settings) as store:
            metrics, plan = execute(settings, prepared, allocator, store, record, tracker)
        draw_bit_allocation(plan, record.figure)
        record.finish({**labels(settings, prepared, allocator, record, plan), **metrics})
        rebuild_runs_csv(settings.results)
        tracker.finish(record.metrics, plan, record.figure)
        failed = False
    except BaseException as error:
        record.fail(str(error) if isinstance(error, LampQError) else traceback.format_exc())
        raise
    finally:
        tracker.close(failed=failed)
        record.close()
    return record


def execute(
    settings: Settings, prepared: Prepared, allocator: Allocator, store: Store, record: RunRecord, tracker: Tracker
) -> tuple[dict, BitPlan]:
    """Calibrate, allocate, quantize, evaluate.

    Returns:
        The metrics (percent, bits, bytes, seconds) and the plan.
    """
    started = time.perf_counter()
    adapter, task = prepared.adapter, prepared.task
    bank = LayerBank(settings.base_quantizer, adapter, prepared.observer, task.identity["calibration"], store)
    quantized = QuantizedModel(adapter, bank)
    memory = int(settings.prefix_memory_gib * 2**30) // 2  # states of the base, and of a plan that may become it
    evaluator = SampleEvaluator(quantized, task, store, bank.identity, memory)
    search = Search(adapter, task, bank, evaluator, store, settings.seed)

    plan = allocator.allocate(search, settings.budget)
    record.write_plan(plan)
    bank.calibrate(plan)
    seconds_calibrate = store.seconds_computed.get("bank", 0.0)
    seconds_allocate = time.perf_counter() - started - seconds_calibrate
    tracker.log_stage("calibrate", {"seconds": seconds_calibrate})
    tracker.log_stage("allocate", {"seconds": seconds_allocate})

    full_precision_identity = {key: bank.identity[key] for key in ("model", "weights")}
    full_precision = validate(quantized, BitPlan.full_precision(adapter.sites), task, store, full_precision_identity)
    started_evaluation = time.perf_counter()
    results = validate(quantized, plan, task, store, bank.identity)
    finished = time.perf_counter()
    metrics = accuracy_metrics(results, full_precision)
    tracker.log_stage("evaluate", {"seconds": finished - started_evaluation, "top1": metrics["top1"]})
    record.write_outcomes(full_precision["top1"].int().tolist(), results["top1"].int().tolist())
    check_gate(adapter, task, metrics)
    costs = realised_costs(adapter.sites, plan)
    costs["packed_bytes"] = packed_bytes(adapter.sites, plan, adapter.parameters(), bank.quantizer_parameters(plan))
    if allocator.searches:
        score = evaluator.score(plan)
        costs |= {"sample_top1": 100 * score.accuracy, "sample_loss": score.mean_loss}
    costs["full_precision_bytes"] = 4 * adapter.parameters()
    total = time.perf_counter() - started
    return {
        **metrics,
        **costs,
        "seconds_calibrate": seconds_calibrate,
        "seconds_allocate": seconds_allocate,
        "seconds_evaluate": finished - started_evaluation,
        "seconds_total": total,
        "seconds_cold": total + sum(store.seconds_read.values()),
    }, plan


def identity(settings: Settings, prepared: Prepared, allocator: Allocator) -> dict:
    """What a run's numbers depend on: settings of the parts that are used, contents of weights and image lists."""
    images = dict(prepared.task.identity)
    budget = settings.budget.to_json()
    if not allocator.searches:
        images.pop("sample")
        budget.pop("candidates")
    if not allocator.uses_budget:
        budget.clear()
    elif settings.budget.weight_bits == settings.budget.activation_bits:
        budget.pop("activation_rule")
    quantizer = settings.base_quantizer
    return {
        "model": prepared.adapter.name,
        "weights": prepared.adapter.weights_hash(),
        "images": images,
        "base_quantizer": [quantizer.name, quantizer.revision, quantizer.settings()],
        "allocator": [allocator.name, allocator.revision, allocator.settings()],
        "budget": budget,
        "seed": settings.seed,
    }


def labels(settings: Settings, prepared: Prepared, allocator: Allocator, record: RunRecord, plan: BitPlan) -> dict:
    """The words of a row: which model, data, method and bits (the plan's own target, where it has one)."""
    target = {**settings.budget.to_json(), **plan.budget}
    return {
        "fingerprint": record.fingerprint,
        "model": prepared.adapter.name,
        "dataset": settings.dataset.name,
        "base_quantizer": settings.base_quantizer.name,
        "allocator": allocator.name,
        "weight_bits": target["weight_bits"],
        "activation_bits": target["activation_bits"],
        "seed": settings.seed,
    }


def check_gate(adapter: ModelAdapter, task: ClassificationTask, metrics: dict) -> None:
    """Warn where a full validation set disagrees with the published full-precision accuracy."""
    published, measured = adapter.published_top1, metrics["top1_full_precision"]
    full = task.full_validation_images
    if published is not None and full == metrics["images"] and abs(measured - published) > GATE:
        log.warning(
            "full precision reaches %.2f %% top-1, published are %.2f %%: check weights and preprocessing",
            measured,
            published,
        )


@contextlib.contextmanager
def store_of(settings: Settings) -> Iterator[Store]:
    """The shared store, or for ``bank=fresh`` an empty one that is thrown away."""
    if settings.bank == "reuse":
        yield Store(settings.cache)
        return
    with tempfile.TemporaryDirectory(prefix="lampq-fresh-") as folder:
        yield Store(Path(folder))
