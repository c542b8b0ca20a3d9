"""One run, from a checked configuration to a recorded result: Algorithm 1 of the paper, top to bottom."""

import logging
import time
import traceback

import torch

from lampq.allocation.base import Allocator
from lampq.allocation.search_space import SearchSpace
from lampq.allocation.uniform import Uniform
from lampq.configuration.settings import Settings
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import realised_costs
from lampq.report.accuracies import ACCURACIES, accuracies_in
from lampq.report.bit_allocation import draw_bit_allocation
from lampq.report.detections import draw_detections
from lampq.report.sensitivity import draw_sensitivity
from lampq.report.style import drawn
from lampq.report.synthesis import show_synthesis
from lampq.runs.finished_run import ended
from lampq.runs.identity import identity, labels
from lampq.runs.preparation import Prepared, prepare, store_of, workbench_of
from lampq.runs.record import RunRecord, read_sensitivity
from lampq.runs.tracking import Tracker, open_tracker, rebuild_runs_csv
from lampq.sensitivity.single_component import SingleComponents
from lampq.tasks.task import Task
from lampq.tasks.validation import validate
from lampq.workbench import Workbench

log = logging.getLogger(__name__)

GATE = 0.3
"""Points by which a full validation set may disagree with the published full-precision accuracy."""


SEARCHED_WITH = {
    "surrogate": "plans are scored with the independent states of %s: the surrogate of what is built in the end",
    "block_bank": "plans are scored with blocks realised by %s at equal bits, each behind equal bits",
    "exact": "every plan that is scored is realised by %s",
}
"""What the log says of a search with a sequential base quantizer."""


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
    budget = settings.budget
    if settings.allocator.searches:
        SearchSpace.check(prepared.adapter, budget, settings.allocator.ties)
    compares = settings.baseline == "uniform" and settings.allocator.searches
    if compares and budget.weight_bits.denominator == budget.activation_bits.denominator == 1:
        allocators.insert(0, Uniform())
    return [run_one(settings, prepared, allocator) for allocator in allocators]


def run_one(settings: Settings, prepared: Prepared, work: Allocator | SingleComponents) -> RunRecord:
    """One row of a table, or one measurement of sensitivity. A finished run is not computed again.

    Two processes that want the same run do not both compute it: the second waits, and reads it.
    """
    record = RunRecord(settings.results, identity(settings, prepared, work), settings.resolved)
    with record.lock():
        damage = record.damage
        if damage is None and not settings.force:
            log.info("%s: finished before, see %s", work.name, record.folder)
            if not record.figure.exists():
                draw(record)
        else:
            if damage is not None and ended(record.folder):
                log.warning("%s: computed again: %s/%s %s", work.name, record.folder, damage.file, damage.reason)
            _compute(settings, prepared, work, record)
        rebuild_runs_csv(settings.results)
    return record


def _compute(settings: Settings, prepared: Prepared, work: Allocator | SingleComponents, record: RunRecord) -> None:
    """Choose the bits, quantize, evaluate, record."""
    images = prepared.task.listing(settings.base_quantizer.training_images)
    record.start(str(prepared.device), torch.get_num_threads(), images)
    tracker = open_tracker(
        settings.logger, fingerprint=record.fingerprint, config=settings.resolved, folder=record.folder
    )
    failed = True
    try:
        with store_of(settings) as store:
            if isinstance(work, SingleComponents):
                workbench = workbench_of(settings, prepared, store)
                metrics, plan = measure(settings, work, workbench, record), None
            else:
                workbench = workbench_of(settings, prepared, store, settings.evaluation_images)
                metrics, plan = execute(settings, prepared, work, workbench, record, tracker)
        record.finish({**labels(settings, prepared, work, record, plan), **metrics})
        draw(record)
        tracker.finish(record.metrics, plan, record.figure if record.figure.is_file() else None)
        failed = False
    except BaseException as error:
        record.fail(str(error) if isinstance(error, LampQError) else traceback.format_exc())
        raise
    finally:
        tracker.close(failed=failed)
        record.close()


def draw(record: RunRecord) -> None:
    """Draw a finished run's figure; where that fails, the next run of the same command tries again."""
    if (record.folder / "sensitivity.csv").is_file():
        drawn(draw_sensitivity, read_sensitivity(record.folder), record.figure)
    elif accuracies_in(record.metrics):
        drawn(draw_bit_allocation, record.plan, record.figure)


def measure(settings: Settings, measurement: SingleComponents, workbench: Workbench, record: RunRecord) -> dict:
    """What single components cost, written to the run's folder.

    Returns:
        Accuracy and loss on D of the model that they are components of, and the time taken.
    """
    started = time.perf_counter()
    show_synthesis(
        workbench.task.make_images(workbench.store, True, settings.base_quantizer.training_images), record.folder
    )
    rows = measurement.measure(workbench, settings.budget)
    record.write_rows("sensitivity.csv", rows)
    seconds = time.perf_counter() - started
    return {
        "sample_top1": rows[0]["top1"],
        "sample_loss": rows[0]["loss"],
        "sample_images": len(workbench.task.sample_images),
        "components": len(rows) - 1,
        "seconds_total": seconds,
        "seconds_cold": seconds + sum(workbench.store.seconds_read.values()),
    }


def execute(
    settings: Settings,
    prepared: Prepared,
    allocator: Allocator,
    workbench: Workbench,
    record: RunRecord,
    tracker: Tracker,
) -> tuple[dict, BitPlan]:
    """Calibrate, allocate, quantize, evaluate.

    Returns:
        The metrics (percent, bits, bytes, seconds) and the plan.
    """
    started = time.perf_counter()
    adapter, task, bank, store = workbench.adapter, workbench.task, workbench.bank, workbench.store
    show_synthesis(task.make_images(store, allocator.searches, settings.base_quantizer.training_images), record.folder)

    if workbench.realisation is not None and allocator.searches:
        log.info(SEARCHED_WITH[settings.base_quantizer.search], settings.base_quantizer.name)
    plan = allocator.choose(workbench, settings.budget)
    record.write_plan(plan)
    workbench.build(plan)
    seconds_calibrate = sum(store.seconds_computed.get(kind, 0.0) for kind in ("bank", "realisation"))
    seconds_images = store.seconds_computed.get("synthesis", 0.0)
    seconds_allocate = time.perf_counter() - started - seconds_calibrate - seconds_images
    tracker.log_stage("calibrate", {"seconds": seconds_calibrate})
    tracker.log_stage("allocate", {"seconds": seconds_allocate})

    metrics: dict = {}
    seconds_evaluate = 0.0
    if settings.validate:
        quantized = workbench.quantized_model()
        full_precision_identity = {key: bank.identity[key] for key in ("model", "weights")}
        full_precision = validate(
            quantized, BitPlan.full_precision(adapter.sites), task, store, full_precision_identity
        )
        started_evaluation = time.perf_counter()
        results = validate(quantized, plan, task, store, workbench.built_from.identity)
        seconds_evaluate = time.perf_counter() - started_evaluation
        metrics |= task.metrics(results, full_precision)
        first = {name: metrics[name] for name in task.accuracies}
        tracker.log_stage("evaluate", {"seconds": seconds_evaluate, **first})
        record.write_rows(task.outcomes_file, task.outcomes(results, full_precision))
        if (shown := task.side_by_side(results, full_precision)) is not None:
            drawn(draw_detections, shown, record.folder / "detections.png")
        check_gate(adapter, task, metrics)
        metrics["full_validation_images"] = task.full_validation_images
    metrics |= realised_costs(adapter.sites, plan)
    metrics |= workbench.sizes(plan)
    if allocator.searches:
        score = workbench.evaluator.score_on_all(plan)
        if score.correct is not None:
            metrics[f"sample_{task.judged}"] = 100 * score.accuracy
            if task.judged == "top1":
                rows = [{"image": image, "top1": int(right)} for image, right in enumerate(score.correct.tolist())]
                record.write_rows("sample_outcomes.csv", rows)
        metrics["sample_loss"] = score.mean_loss
        metrics |= {"sample_images": len(score.loss), "evaluation_images": workbench.evaluator.images}
        metrics["evaluations"] = workbench.evaluator.scored
        if workbench.realisation is not None:
            metrics["search"] = settings.base_quantizer.search
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


def check_gate(adapter: ModelAdapter, task: Task, metrics: dict) -> None:
    """Warn where a full validation set disagrees with the published full-precision accuracy."""
    if task.full_validation_images != metrics["images"]:
        return
    for name, published in task.published(adapter).items():
        measured = metrics[f"{name}_full_precision"]
        if abs(measured - published) > GATE:
            log.warning(
                "full precision reaches %.2f %% %s, published are %.2f %%: check weights and preprocessing",
                measured,
                ACCURACIES[name],
                published,
            )
