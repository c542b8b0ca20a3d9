"""One run, from a checked configuration to a recorded result: Algorithm 1 of the paper, top to bottom."""

import logging

import torch

from lampq.allocation.base import Allocator
from lampq.allocation.search_space import SearchSpace
from lampq.allocation.uniform import Uniform
from lampq.artefact.saving import is_saved
from lampq.configuration.settings import Settings
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import realised_costs
from lampq.report.detections import show_detections
from lampq.report.run_figure import draw_run
from lampq.report.synthesis import show_synthesis
from lampq.runs.finished_run import ended
from lampq.runs.identity import identity, labels
from lampq.runs.preparation import Prepared, prepare, store_of, workbench_of
from lampq.runs.record import RunRecord
from lampq.runs.saved_model import save_run
from lampq.runs.stage_times import StageTimes
from lampq.runs.tracking import rebuild_runs_csv
from lampq.runs.under_way import under_way
from lampq.sensitivity.measurement import Measurement
from lampq.tasks.validation import check_published, validate
from lampq.workbench import Workbench

log = logging.getLogger(__name__)


def run(settings: Settings) -> list[RunRecord]:
    """Quantize and evaluate; first at uniform bits for comparison (``baseline=uniform``), then as chosen.

    Returns:
        The records, the chosen allocator's last.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    prepared = prepare(settings, torch.device(settings.device))
    if settings.sensitivity is not None:
        return [run_one(settings, prepared, settings.sensitivity)]
    allocators: list[Allocator] = [settings.allocator]
    if settings.allocator.searches:
        SearchSpace.check(prepared.adapter, settings.budget, settings.allocator.ties)
        target = settings.budget
        if settings.baseline == "uniform" and target.weight_bits.denominator == target.activation_bits.denominator == 1:
            allocators.insert(0, Uniform())
    return [run_one(settings, prepared, allocator) for allocator in allocators]


def run_one(settings: Settings, prepared: Prepared, work: Allocator | Measurement) -> RunRecord:
    """One row of a table, or one measurement of sensitivity. A finished run is not computed again.

    Two processes that want the same run do not both compute it: the second waits, and reads it.
    """
    record = RunRecord(settings.results, identity(settings, prepared, work), settings.resolved)
    with record.lock():
        damage = record.damage
        if damage is None and not settings.force:
            log.info("%s: finished before, see %s", work.name, record.folder)
            if not record.figure.exists():
                draw_run(record)
        else:
            if damage is not None and ended(record.folder):
                log.warning("%s: computed again: %s/%s %s", work.name, record.folder, damage.file, damage.reason)
            compute(settings, prepared, work, record)
        if settings.save_model and settings.sensitivity is None and not is_saved(record.model):
            save_run(settings, prepared, record)
        rebuild_runs_csv(settings.results)
    return record


def compute(settings: Settings, prepared: Prepared, work: Allocator | Measurement, record: RunRecord) -> None:
    """Measure single components, or choose the bits, quantize and evaluate; record, draw and log what came out."""
    with under_way(record, settings, prepared) as tracker:
        with store_of(settings) as store:
            single = settings.sensitivity is not None
            workbench = workbench_of(settings, prepared, store, None if single else settings.evaluation_images)
            times = StageTimes(store, tracker)
            training = settings.base_quantizer.training_images
            made = workbench.task.dataset.make(settings.seed, store, single or work.searches, training)
            show_synthesis(made, record.folder)
            if single:
                rows, plan = work.measure(workbench, settings.budget), None
                record.write_rows("sensitivity.csv", rows)
                metrics = work.metrics(rows, workbench)
            else:
                metrics, plan = quantize(settings, work, workbench, record, times)
            metrics |= times.metrics
        record.finish({**labels(settings, prepared, work, record, plan), **metrics})
        draw_run(record)
        tracker.finish(record.metrics, plan, record.figure if record.figure.is_file() else None)


def quantize(
    settings: Settings, allocator: Allocator, workbench: Workbench, record: RunRecord, times: StageTimes
) -> tuple[dict, BitPlan]:
    """Calibrate, allocate, quantize, evaluate.

    Returns:
        The metrics (percent, bits, bytes, seconds) and the plan.
    """
    if allocator.searches and workbench.told_of_search is not None:
        log.info(workbench.told_of_search)
    plan = allocator.choose(workbench, settings.budget)
    record.write_plan(plan)
    workbench.build(plan)
    times.allocated()
    metrics = evaluate(workbench, plan, record, times) if settings.validate else {}
    metrics |= realised_costs(workbench.adapter.sites, plan) | workbench.sizes(plan)
    if allocator.searches:
        metrics |= workbench.found(plan)
        if workbench.task.judged == "top1":
            record.write_rows("sample_outcomes.csv", workbench.evaluator.score_on_all(plan).outcomes)
        metrics["seconds_plans"] = times.computing("scores", "reconstruction_errors")
    return metrics, plan


def evaluate(workbench: Workbench, plan: BitPlan, record: RunRecord, times: StageTimes) -> dict:
    """The plan on the validation images, beside full precision; what single images gave is written and drawn."""
    task, store, quantized = workbench.task, workbench.store, workbench.quantized_model()
    untouched = {key: workbench.bank.identity[key] for key in ("model", "weights")}
    full_precision = validate(quantized, BitPlan.full_precision(workbench.adapter.sites), task, store, untouched)
    with times.evaluating():
        results = validate(quantized, plan, task, store, workbench.built_from.identity)
    metrics = task.metrics(results, full_precision)
    times.evaluated({name: metrics[name] for name in task.accuracies})
    record.write_rows(task.outcomes_file, task.outcomes(results, full_precision))
    show_detections(task.side_by_side(results, full_precision), record.folder)
    check_published(task, metrics)
    return {**metrics, "full_validation_images": task.dataset.full_validation_images}
