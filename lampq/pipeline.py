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
from lampq.fingerprint import fingerprint
from lampq.models.adapter import ModelAdapter
from lampq.plan import BitPlan
from lampq.quantized_model import QuantizedModel
from lampq.record import RunRecord, read_sensitivity
from lampq.report.bit_allocation import draw_bit_allocation
from lampq.report.sensitivity import draw_sensitivity
from lampq.sensitivity.single_component import SingleComponents
from lampq.settings import Settings
from lampq.store import Store
from lampq.tasks.classification import ClassificationTask
from lampq.tasks.sample_evaluation import SampleEvaluator
from lampq.tasks.validation import accuracy_metrics, validate
from lampq.tracking import Tracker, open_tracker, rebuild_runs_csv

log = logging.getLogger(__name__)

_prepared: dict[str, "Prepared"] = {}
"""The last model and images of this process."""
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
    if settings.sensitivity is not None:
        return [run_one(settings, prepared, settings.sensitivity)]
    allocators: list[Allocator] = [settings.allocator]
    compares = settings.baseline == "uniform" and settings.allocator.searches
    if compares and settings.budget.weight_bits.denominator == 1:
        allocators.insert(0, Uniform())
    return [run_one(settings, prepared, allocator) for allocator in allocators]


def prepare(settings: Settings, device: torch.device) -> Prepared:
    """Build the model and name the images; nothing is run yet.

    The jobs of a grid that share model and images get the same ones, unless time is what is measured.
    """
    named = [settings.resolved.get(part) for part in ("model", "dataset")]
    if settings.bank == "fresh" or None in named:
        return _prepare(settings, device)
    key = fingerprint([*named, settings.seed, str(device)])
    if key not in _prepared:
        _prepared.clear()
        _prepared[key] = _prepare(settings, device)
    return _prepared[key]


def _prepare(settings: Settings, device: torch.device) -> Prepared:
    log.info("model %s", settings.model.name)
    adapter = settings.model.build(device)
    task = ClassificationTask(adapter, settings.dataset, settings.seed, device)
    for note in task.notes:
        log.info(note)
    return Prepared(adapter, task, Observer(adapter, lambda: task.calibration_images), device)


def run_one(settings: Settings, prepared: Prepared, work: Allocator | SingleComponents) -> RunRecord:
    """One row of a table, or one measurement of sensitivity. A finished run is not computed again.

    Two processes that want the same run do not both compute it: the second waits, and reads it.
    """
    record = RunRecord(settings.results, identity(settings, prepared, work), settings.resolved)
    with record.lock():
        if record.finished and not settings.force:
            log.info("%s: finished before, see %s", work.name, record.folder)
        else:
            _compute(settings, prepared, work, record)
    return record


def _compute(settings: Settings, prepared: Prepared, work: Allocator | SingleComponents, record: RunRecord) -> None:
    """Choose the bits, quantize, evaluate, record."""
    record.start(str(prepared.device), torch.get_num_threads(), prepared.task.dataset.listing(settings.seed))
    tracker = open_tracker(
        settings.logger, fingerprint=record.fingerprint, config=settings.resolved, folder=record.folder
    )
    failed = True
    try:
        with store_of(settings) as store:
            search = open_search(settings, prepared, store)
            if isinstance(work, SingleComponents):
                metrics, plan = measure(settings, work, search, record), None
                draw_sensitivity(read_sensitivity(record.folder), record.figure)
            else:
                metrics, plan = execute(settings, prepared, work, search, record, tracker)
                if settings.validate:
                    draw_bit_allocation(plan, record.figure)
        record.finish({**labels(settings, prepared, work, record, plan), **metrics})
        if settings.validate:
            rebuild_runs_csv(settings.results)
        tracker.finish(record.metrics, plan, record.figure if record.figure.is_file() else None)
        failed = False
    except BaseException as error:
        record.fail(str(error) if isinstance(error, LampQError) else traceback.format_exc())
        raise
    finally:
        tracker.close(failed=failed)
        record.close()


def open_search(settings: Settings, prepared: Prepared, store: Store) -> Search:
    """The bank, and what scores plans on D."""
    adapter, task = prepared.adapter, prepared.task
    bank = LayerBank(settings.base_quantizer, adapter, prepared.observer, task.identity["calibration"], store)
    memory = int(settings.prefix_memory_gib * 2**30) // 2  # states of the base, and of a plan that may become it
    evaluator = SampleEvaluator(QuantizedModel(adapter, bank), task, store, bank.identity, memory)
    return Search(adapter, task, bank, evaluator, store, settings.seed)


def measure(settings: Settings, measurement: SingleComponents, search: Search, record: RunRecord) -> dict:
    """What single components cost, written to the run's folder.

    Returns:
        Accuracy and loss on D of the model that they are components of, and the time taken.
    """
    started = time.perf_counter()
    rows = measurement.measure(search, settings.budget)
    record.write_sensitivity(rows)
    seconds = time.perf_counter() - started
    return {
        "sample_top1": rows[0]["top1"],
        "sample_loss": rows[0]["loss"],
        "sample_images": len(search.task.sample_images),
        "components": len(rows) - 1,
        "seconds_total": seconds,
        "seconds_cold": seconds + sum(search.store.seconds_read.values()),
    }


def execute(
    settings: Settings, prepared: Prepared, allocator: Allocator, search: Search, record: RunRecord, tracker: Tracker
) -> tuple[dict, BitPlan]:
    """Calibrate, allocate, quantize, evaluate.

    Returns:
        The metrics (percent, bits, bytes, seconds) and the plan.
    """
    started = time.perf_counter()
    adapter, task, bank, store = search.adapter, search.task, search.bank, search.store

    plan = allocator.allocate(search, settings.budget)
    record.write_plan(plan)
    bank.calibrate(plan)
    seconds_calibrate = store.seconds_computed.get("bank", 0.0)
    seconds_allocate = time.perf_counter() - started - seconds_calibrate
    tracker.log_stage("calibrate", {"seconds": seconds_calibrate})
    tracker.log_stage("allocate", {"seconds": seconds_allocate})

    metrics: dict = {}
    seconds_evaluate = 0.0
    if settings.validate:
        quantized = QuantizedModel(adapter, bank)
        full_precision_identity = {key: bank.identity[key] for key in ("model", "weights")}
        full_precision = validate(
            quantized, BitPlan.full_precision(adapter.sites), task, store, full_precision_identity
        )
        started_evaluation = time.perf_counter()
        results = validate(quantized, plan, task, store, bank.identity)
        seconds_evaluate = time.perf_counter() - started_evaluation
        metrics |= accuracy_metrics(results, full_precision)
        tracker.log_stage("evaluate", {"seconds": seconds_evaluate, "top1": metrics["top1"]})
        record.write_outcomes(full_precision["top1"].int().tolist(), results["top1"].int().tolist())
        check_gate(adapter, task, metrics)
        metrics["full_validation_images"] = task.full_validation_images
    metrics |= realised_costs(adapter.sites, plan)
    metrics["packed_bytes"] = packed_bytes(adapter.sites, plan, adapter.parameters(), bank.quantizer_parameters(plan))
    metrics["full_precision_bytes"] = 4 * adapter.parameters()
    if allocator.searches:
        score = search.evaluator.score(plan)
        metrics |= {"sample_top1": 100 * score.accuracy, "sample_loss": score.mean_loss}
        metrics |= {"sample_images": len(score.loss), "evaluations": search.evaluator.scored}
        computed = store.seconds_computed
        metrics["seconds_plans"] = sum(computed.get(kind, 0.0) for kind in ("scores", "reconstruction_errors"))
    total = time.perf_counter() - started
    return {
        **metrics,
        "seconds_calibrate": seconds_calibrate,
        "seconds_allocate": seconds_allocate,
        "seconds_evaluate": seconds_evaluate,
        "seconds_total": total,
        "seconds_cold": total + sum(store.seconds_read.values()),
    }, plan


def identity(settings: Settings, prepared: Prepared, work: Allocator | SingleComponents) -> dict:
    """What a run's numbers depend on: settings of the parts that are used, contents of weights and image lists."""
    images = dict(prepared.task.identity)
    budget = settings.budget.to_json()
    single = isinstance(work, SingleComponents)
    if not work.searches:
        images.pop("sample")
        budget.pop("candidates")
    if single or not settings.validate:
        images.pop("validation")
    if single:
        budget = {key: budget[key] for key in ("weight_bits", "activation_bits", "activation_rule")}
    if not work.uses_budget:
        budget.clear()
    elif settings.budget.weight_bits == settings.budget.activation_bits:
        budget.pop("activation_rule")
        if single:
            budget.clear()  # its inputs have the component's bits, whatever the target
    quantizer = settings.base_quantizer
    return {
        "model": prepared.adapter.name,
        "weights": prepared.adapter.weights_hash(),
        "images": images,
        "base_quantizer": [quantizer.name, quantizer.revision, quantizer.settings()],
        "sensitivity" if single else "allocator": [work.name, work.revision, work.settings()],
        "budget": budget,
        "seed": settings.seed,
        # Where the time of a cold run is what was asked for, a run that read the bank does not stand for it.
        **({"fresh_bank": [str(prepared.device), torch.get_num_threads()]} if settings.bank == "fresh" else {}),
    }


def labels(
    settings: Settings,
    prepared: Prepared,
    work: Allocator | SingleComponents,
    record: RunRecord,
    plan: BitPlan | None,
) -> dict:
    """The words of a row: which model, data, method and bits (the plan's own target, where it has one)."""
    if plan is None:
        target = dict.fromkeys(("weight_bits", "activation_bits"), float(work.bits))
    else:
        target = {**settings.budget.to_json(), **plan.budget}
    return {
        "fingerprint": record.fingerprint,
        "model": prepared.adapter.name,
        "dataset": settings.dataset.name,
        "base_quantizer": settings.base_quantizer.name,
        "allocator": work.name,
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
