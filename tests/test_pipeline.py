"""Whole runs on a small model: everything is recorded, nothing is computed twice, interruptions cost little."""

import csv
import json
import logging
from dataclasses import replace
from fractions import Fraction

import hydra
import pytest
import torch
import yaml
from safetensors.torch import load_file

import lampq.sensitivity.reconstruction_error
import lampq.tasks.sample_evaluation
import lampq.tasks.validation
from lampq.allocation.from_plan import FromPlan
from lampq.allocation.lampq import LampQ
from lampq.allocation.uniform import Uniform
from lampq.artefact.loading import read_description
from lampq.artefact.saving import is_saved
from lampq.bank.quantized_model import QuantizedModel
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.configuration.config_folder import config_folder
from lampq.configuration.settings import resolved
from lampq.errors import LampQError
from lampq.launch.job import perform
from lampq.pipeline import run
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.runs.finished_run import LABELS
from lampq.storage.store import tensors_hash
from lampq.tasks.classification import ClassificationTask
from tests.small_models import MadeUpImages, search_over, swin_adapter, vit_adapter
from tests.small_settings import small_settings

METRICS = {
    "top1",
    "top5",
    "top1_standard_error",
    "top1_full_precision",
    "top1_full_precision_standard_error",
    "top1_difference",
    "top1_difference_standard_error",
    "images",
    "full_validation_images",
    "average_weight_bits",
    "average_weight_bits_all",
    "average_activation_bits",
    "average_operand_bits",
    "bops",
    "packed_bytes",
    "full_precision_bytes",
    "seconds_calibrate",
    "seconds_allocate",
    "seconds_evaluate",
    "seconds_total",
    "seconds_cold",
}
OF_A_SEARCH = {"sample_top1", "sample_loss", "sample_images", "evaluation_images", "evaluations", "seconds_plans"}
OF_A_SEARCH |= {"budget_unit"}
FILES = {
    "config.yaml",
    "identity.json",
    "environment.json",
    "images.json",
    "outcomes.csv",
    "log.txt",
    "plan.json",
    "metrics.json",
    "bit_allocation.png",
    "bit_allocation.pdf",
    "digests.json",
}


class Model:
    """What `model=...` constructs: a name, and a network when it is asked for."""

    def __init__(self, build=vit_adapter):
        self.build_adapter = build
        self.name = build().name

    def build(self, device):
        return self.build_adapter()


class Counting(RoundToNearest):
    """Round to nearest that counts the sites it calibrates."""

    def __init__(self):
        self.calibrated = []

    def calibrate(self, site, layer, inputs, bits):
        self.calibrated.append((site.name, *bits))
        return super().calibrate(site, layer, inputs, bits)


def budget(target=3):
    target = Fraction(str(target))
    return Budget(target, target, (2, 3, 4, 5), "fixed", (int(target), int(target)), "target")


@pytest.fixture
def settings(tmp_path):
    parts = {"model": Model(), "base_quantizer": Counting(), "allocator": LampQ(try_next_pairs=1)}
    resolved = {"bits": 3, "model": {"name": "small_vit"}}
    return small_settings(tmp_path, **parts, budget=budget(), resolved=resolved)


def fresh(settings, **changes):
    """The same settings as another process would have them: parts of its own."""
    return replace(settings, dataset=MadeUpImages(**changes), base_quantizer=Counting())


@pytest.fixture(autouse=True)
def no_figures(request, monkeypatch):
    """Drawing takes longer than the runs: only the tests of the record draw."""
    if "whole_record" not in request.node.name:
        monkeypatch.setattr("lampq.report.run_figure.draw_bit_allocation", lambda plan, path, costs: path.touch())


def without_seconds(metrics):
    return {key: value for key, value in metrics.items() if not key.startswith("seconds")}


def allocators(tmp_path):
    sites = vit_adapter().sites
    bits = {site.name: 4 if "qkv" in site.name else 2 for site in sites if site.allocated}
    budget().plan(sites, bits, {"allocator": "by hand"}).write(tmp_path / "given.json")
    return {"uniform": Uniform(), "lampq": LampQ(), "from_plan": FromPlan(str(tmp_path / "given.json"))}


@pytest.mark.parametrize("allocator", ["uniform", "lampq", "from_plan"])
def test_a_run_writes_its_whole_record(settings, tmp_path, allocator):
    settings = replace(settings, allocator=allocators(tmp_path)[allocator])
    (record,) = run(settings)
    folder = tmp_path / "results" / "runs" / record.fingerprint
    searched = {"sample_outcomes.csv"} if settings.allocator.searches else set()
    assert {path.name for path in folder.iterdir()} == FILES | searched
    assert (folder / "bit_allocation.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {*LABELS, *METRICS} | (OF_A_SEARCH if settings.allocator.searches else set())
    assert record.metrics == metrics and record.finished
    assert all(isinstance(metrics[key], int | float) for key in METRICS)
    assert metrics["allocator"] == allocator and metrics["images"] == 60 and metrics["fingerprint"] == folder.name
    assert metrics["seconds_cold"] >= metrics["seconds_total"] >= metrics["seconds_evaluate"] > 0
    assert yaml.safe_load((folder / "config.yaml").read_text()) == settings.resolved
    plan = BitPlan.read(folder / "plan.json")
    plan.check_fits(vit_adapter().sites)
    assert {len(v) for v in json.loads((folder / "images.json").read_text()).values()} == {8, 64, 60}
    if searched:
        right = [int(line.rpartition(",")[2]) for line in (folder / "sample_outcomes.csv").read_text().split()[1:]]
        assert len(right) == 64 and 100 * sum(right) / 64 == pytest.approx(metrics["sample_top1"])
    with open(tmp_path / "results" / "runs.csv") as file:
        (row,) = csv.DictReader(file)
    assert row["fingerprint"] == folder.name and float(row["top1"]) == metrics["top1"]
    assert not logging.getLogger("lampq").handlers


def test_the_numbers_are_those_of_the_plan(settings):
    """Recomputed by hand from the plan of the record: accuracy on the validation images, and bits."""
    (record,) = run(settings)
    search = search_over(vit_adapter(), settings.cache / "other")
    quantized = QuantizedModel(search.adapter, search.bank).apply(record.plan).adapter
    right = before = 0
    with torch.inference_mode():
        for pictures, labels in search.task.validation():
            right += (quantized.network(pictures).argmax(1) == labels).sum().item()
            before += (search.adapter.network(pictures).argmax(1) == labels).sum().item()
    metrics = record.metrics
    assert metrics["top1"] == pytest.approx(100 * right / 60)
    assert metrics["top1_full_precision"] == pytest.approx(100 * before / 60) and before > right
    assert metrics["top1_difference"] == pytest.approx(100 * (right - before) / 60)
    layers = [site for site in record.plan.sites if site.allocated]
    spent = sum(site.parameters * site.weight_bits for site in layers)
    assert metrics["average_weight_bits"] == pytest.approx(spent / sum(site.parameters for site in layers))
    assert metrics["average_weight_bits"] <= 3
    score = search.evaluator.score(record.plan)
    assert metrics["sample_top1"] == 100 * score.accuracy and metrics["sample_loss"] == pytest.approx(score.mean_loss)


def test_a_search_may_score_its_plans_on_the_first_images_of_d(settings):
    (whole,), (part,) = run(settings), run(replace(settings, evaluation_images=16))
    assert whole.fingerprint != part.fingerprint and "evaluation_images" not in whole.plan.origin
    assert part.plan.origin["evaluation_images"] == part.identity["evaluation_images"] == 16
    assert (whole.metrics["evaluation_images"], part.metrics["evaluation_images"]) == (64, 16)
    for swap in part.plan.origin["swaps"]:
        assert (16 * swap["accuracy"]).is_integer()
    assert part.plan.origin["swaps"] != whole.plan.origin["swaps"]
    assert part.plan.origin["type_scaling"]["drop"] != whole.plan.origin["type_scaling"]["drop"]
    # The metric and what is reported of the plan that was chosen are those of all of D.
    assert part.plan.origin["fisher_traces"] == whole.plan.origin["fisher_traces"]
    score = search_over(vit_adapter(), settings.cache / "other").evaluator.score(part.plan)
    assert part.metrics["sample_top1"] == 100 * score.accuracy and part.metrics["sample_images"] == 64
    equal = [run(replace(settings, allocator=Uniform(), evaluation_images=n))[0] for n in (None, 16)]
    assert equal[0].fingerprint == equal[1].fingerprint, "nothing is searched"
    with pytest.raises(LampQError, match=r"^evaluation_images=65: D has 64 images; give at most as many, or null"):
        run(replace(settings, evaluation_images=65))


def test_a_search_is_compared_with_equal_bits_first(settings):
    uniform, chosen = run(replace(settings, baseline="uniform"))
    assert uniform.metrics["allocator"] == "uniform" and chosen.metrics["allocator"] == "lampq"
    assert {site.bits for site in uniform.plan.sites if site.allocated} == {(3, 3)}
    with open(settings.results / "runs.csv") as file:
        assert {row["allocator"] for row in csv.DictReader(file)} == {"uniform", "lampq"}
    (alone,) = run(replace(settings, baseline="uniform", budget=budget("3.5")))
    assert alone.metrics["allocator"] == "lampq", "there are no equal bits of 3.5"
    (given,) = run(replace(settings, baseline="uniform", allocator=Uniform()))
    assert given.fingerprint == uniform.fingerprint


def test_a_finished_run_is_not_computed_again(settings):
    (first,) = run(settings)
    again = fresh(settings)
    written = (first.folder / "metrics.json").stat().st_mtime_ns
    (second,) = run(again)
    assert second.fingerprint == first.fingerprint and second.metrics == first.metrics
    assert (first.folder / "metrics.json").stat().st_mtime_ns == written
    assert set(again.dataset.reads.values()) == {0} and not again.base_quantizer.calibrated


@pytest.mark.parametrize(
    ("file", "content"), [("metrics.json", "{}"), ("outcomes.csv", "image,full_precision_top1,top1\n0,1,1\n")]
)
def test_what_does_not_agree_is_computed_again_with_a_line(settings, caplog, file, content):
    settings = replace(settings, allocator=Uniform())
    (first,) = run(settings)
    before = {name: (first.folder / name).read_text() for name in ("outcomes.csv", "plan.json")}
    metrics = first.metrics
    (first.folder / file).write_text(content)
    with caplog.at_level(logging.WARNING, "lampq"):
        (second,) = run(fresh(settings))
    assert f"{first.folder}/{file} has changed since it was written" in caplog.text
    assert without_seconds(second.metrics) == without_seconds(metrics)
    assert {name: (first.folder / name).read_text() for name in before} == before


def test_a_run_killed_before_its_row_was_written_has_it_after_the_same_command(settings, tmp_path):
    settings = replace(settings, allocator=Uniform())
    (record,) = run(settings)
    (tmp_path / "results" / "runs.csv").unlink()
    run(fresh(settings))
    assert record.fingerprint in (tmp_path / "results" / "runs.csv").read_text()


def test_a_figure_that_fails_loses_no_run_and_is_drawn_by_the_same_command(settings, monkeypatch, caplog):
    def draw_bit_allocation(plan, path, costs):
        raise ValueError("no such backend")

    settings = replace(settings, allocator=Uniform())
    with monkeypatch.context() as broken, caplog.at_level(logging.WARNING, "lampq"):
        broken.setattr("lampq.report.run_figure.draw_bit_allocation", draw_bit_allocation)
        (record,) = run(settings)
    assert record.finished and not record.figure.exists()
    assert "draw_bit_allocation failed (ValueError: no such backend)" in caplog.text
    run(fresh(settings))
    assert record.figure.is_file()


def test_force_computes_it_again_and_finds_the_same(settings):
    (first,) = run(settings)
    before = first.metrics
    written = (first.folder / "metrics.json").stat().st_mtime_ns
    again = replace(fresh(settings), force=True)
    (second,) = run(again)
    assert (second.folder / "metrics.json").stat().st_mtime_ns > written
    assert without_seconds(second.metrics) == without_seconds(before)
    assert not again.base_quantizer.calibrated, "the bank is reused all the same"


def test_a_run_that_reads_the_bank_tells_what_it_would_cost_without(settings):
    (first,) = run(settings)
    assert first.metrics["seconds_cold"] == first.metrics["seconds_total"], "nothing was there to be read"
    (second,) = run(replace(fresh(settings), force=True))
    assert second.metrics["seconds_cold"] > second.metrics["seconds_total"] and second.metrics["seconds_calibrate"] == 0


def test_a_fresh_bank_leaves_the_shared_one_alone(settings):
    fresh_settings = replace(fresh(settings), bank="fresh")
    (record,) = run(fresh_settings)
    assert not settings.cache.exists() and fresh_settings.base_quantizer.calibrated
    assert record.metrics["seconds_cold"] == record.metrics["seconds_total"]
    (reused,) = run(replace(settings, results=settings.results / "other"))
    # A run whose time is what was asked for is not one that may read a bank: another fingerprint, the same numbers.
    assert reused.fingerprint != record.fingerprint
    assert without_seconds(reused.metrics) == {**without_seconds(record.metrics), "fingerprint": reused.fingerprint}


class Interruption(KeyboardInterrupt):
    pass


def after(count, function):
    """`function`, which is interrupted when it is called for the given time."""
    calls = []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == count:
            raise Interruption
        return function(*arguments, **options)

    return interrupted


@pytest.mark.parametrize("place", ["calibration", "scoring", "iterative update", "evaluation"])
def test_an_interrupted_run_goes_on_where_it_was(settings, monkeypatch, tmp_path, place):
    (expected,) = run(replace(fresh(settings), results=tmp_path / "expected", cache=tmp_path / "expected cache"))
    monkeypatch.setattr(lampq.tasks.validation, "PIECE", 20)
    first = fresh(settings)
    with monkeypatch.context() as patch:
        if place == "calibration":
            patch.setattr(first.base_quantizer, "calibrate", after(9, first.base_quantizer.calibrate))
        if place == "scoring":
            evaluate = lampq.tasks.sample_evaluation.SampleEvaluator._evaluate
            patch.setattr(lampq.tasks.sample_evaluation.SampleEvaluator, "_evaluate", after(4, evaluate))
        if place == "iterative update":
            estimates = lampq.sensitivity.reconstruction_error.reconstruction_errors
            patch.setattr(lampq.sensitivity.reconstruction_error, "reconstruction_errors", after(1, estimates))
        if place == "evaluation":
            patch.setattr(ClassificationTask, "measure", after(5, ClassificationTask.measure))
        with pytest.raises(Interruption):
            run(first)
    (folder,) = (settings.results / "runs").iterdir()
    assert "Interruption" in (folder / "failure.txt").read_text() and not (folder / "metrics.json").exists()
    assert not (settings.results / "runs.csv").exists() and not logging.getLogger("lampq").handlers
    assert first.base_quantizer.calibrated

    second = fresh(settings)
    pieces = []
    validation_run = ClassificationTask.measure
    monkeypatch.setattr(ClassificationTask, "measure", lambda *a: pieces.append(a[2:]) or validation_run(*a))
    (record,) = run(second)
    assert not set(first.base_quantizer.calibrated) & set(second.base_quantizer.calibrated), "calibrated twice"
    assert record.folder == folder and not (folder / "failure.txt").exists()
    assert without_seconds(record.metrics) == without_seconds(expected.metrics)
    assert record.plan == expected.plan
    if place == "evaluation":
        assert pieces == [(20, 40), (40, 60)] and not second.base_quantizer.calibrated


def test_threads_batches_and_memory_do_not_change_results(settings, tmp_path):
    # Small: on a busy machine, two threads wait for each other in every operation.
    counts = {"calibration_images": 4, "sample_images": 16, "validation_images": 20}
    settings = replace(settings, model=Model(lambda: vit_adapter(1)), allocator=LampQ(mu=1, maximum_swaps=1))
    (expected,) = run(fresh(settings, **counts))
    threads = torch.get_num_threads()
    try:
        (other,) = run(
            replace(
                fresh(settings, batch_size=7, **counts),
                threads=2,
                prefix_memory_gib=0.0,
                observation_memory_gib=0.0,
                results=tmp_path / "other results",
                cache=tmp_path / "other cache",
            )
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert other.fingerprint == expected.fingerprint and other.plan.key() == expected.plan.key()
    mine, theirs = without_seconds(expected.metrics), without_seconds(other.metrics)
    assert mine.pop("sample_loss") == pytest.approx(theirs.pop("sample_loss"), rel=1e-6)
    assert mine == theirs


def test_no_bit_of_a_state_a_score_or_an_outcome_depends_on_threads(settings, tmp_path):
    counts = {"calibration_images": 4, "sample_images": 16, "validation_images": 20}
    settings = replace(settings, model=Model(lambda: vit_adapter(1)), allocator=LampQ(mu=1, maximum_swaps=1))
    before, digests = torch.get_num_threads(), []
    for threads in (1, 2):
        cache = tmp_path / f"cache of {threads}"
        try:
            run(replace(fresh(settings, **counts), threads=threads, force=True, cache=cache))
        finally:
            torch.set_num_threads(before)
        # Of Fisher traces and reconstruction errors, sums, the last bits do; plans are what is made of them.
        entries = [path for kind in ("bank", "scores", "validation") for path in (cache / kind).rglob("*.safetensors")]
        digests.append({path.relative_to(cache): tensors_hash(load_file(path)) for path in entries})
    assert {path.parts[0] for path in digests[0]} == {"bank", "scores", "validation"}
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"budget": budget(4)},
        {"allocator": LampQ()},
        {"allocator": Uniform()},
        {"model": Model(lambda: vit_adapter(seed=1))},
        {"dataset": MadeUpImages(validation_images=30)},
    ],
    ids=["seed", "budget", "option", "allocator", "weights", "images"],
)
def test_what_changes_numbers_is_another_run(settings, change):
    (first,) = run(settings)
    (second,) = run(replace(fresh(settings), **change))
    assert second.fingerprint != first.fingerprint


def test_what_a_run_does_not_use_is_not_part_of_it(settings):
    """The bit set, the sample set D and the rule of unequal targets mean nothing to equal bits."""
    (first,) = run(replace(settings, allocator=Uniform()))
    for change in (
        {"dataset": MadeUpImages(sample_images=32)},
        {"budget": replace(budget(), candidates=(1, 2, 3), activation_rule="follow")},
        {"prefix_memory_gib": 0.5, "resolved": {"bits": 3, "paths": "elsewhere"}},
    ):
        (second,) = run(replace(fresh(settings), allocator=Uniform(), **change))
        assert second.fingerprint == first.fingerprint


def test_a_users_mistake_is_recorded_as_its_line(settings):
    other = swin_adapter()
    plan = budget().plan(other.sites, {site.name: 3 for site in other.sites if site.allocated})
    settings.results.mkdir()
    plan.write(settings.results / "plan.json")
    with pytest.raises(LampQError, match="does not fit the model"):
        run(replace(settings, allocator=FromPlan(str(settings.results / "plan.json"))))
    (folder,) = (settings.results / "runs").iterdir()
    reason = (folder / "failure.txt").read_text()
    assert "does not fit the model" in reason and "Traceback" not in reason


def test_a_full_validation_set_is_checked_against_the_published_accuracy(settings, caplog):
    class Published(Model):
        def build(self, device):
            adapter = super().build(device)
            adapter.published_top1 = 99.0
            return adapter

    with caplog.at_level(logging.WARNING, "lampq"):
        run(replace(settings, model=Published(), allocator=Uniform()))
        assert "published" not in caplog.text, "60 images are not the whole set"
        whole = MadeUpImages()
        whole.full_validation_images = 60
        run(replace(settings, model=Published(), allocator=Uniform(), dataset=whole, force=True))
    assert "published are 99.00 %" in caplog.text


def test_a_swin_runs_as_well(settings):
    (record,) = run(replace(settings, model=Model(swin_adapter)))
    assert record.metrics["model"] == "small_swin" and record.metrics["average_weight_bits"] <= 3


def test_a_model_is_saved_where_it_is_asked_for_also_later(settings):
    (chosen,) = run(settings)
    assert not chosen.model.exists()
    before = (chosen.folder / "digests.json").read_bytes()
    (again,) = run(fresh(replace(settings, save_model=True)))
    assert again.folder == chosen.folder and (chosen.folder / "digests.json").read_bytes() == before
    described = read_description(chosen.model)
    assert is_saved(chosen.model) and BitPlan.from_json(described["plan"]).key() == chosen.plan.key()
    assert described["about"]["metrics"]["top1"] == chosen.metrics["top1"]


def test_a_single_run_saves_its_model_and_a_job_of_a_grid_does_not(pipeline):
    for asked, alone, wanted in ((None, True, True), (None, False, False), (False, True, False), (True, False, True)):
        with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
            values = resolved(hydra.compose("config", overrides=["base_quantizer=rtn"]))
        perform({**values, "save_model": asked}, alone=alone)
        assert pipeline.settings[-1].save_model is wanted
    perform({**values, "save_model": None, "bank": "fresh"}, alone=True)
    assert pipeline.settings[-1].save_model is False
