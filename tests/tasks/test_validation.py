"""The last number: pieces add up, batches do not matter, standard errors by hand."""

import math

import pytest
import torch

import lampq.tasks.validation
from lampq.bank.quantized_model import QuantizedModel
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.storage.store import Store
from lampq.tasks.classification import ClassificationTask, accuracy_metrics
from lampq.tasks.validation import validate
from tests.small_models import images, search_over, vit_adapter

BUDGET = Budget(3, 3, (2, 3, 4), "fixed", (3, 3), "target")


@pytest.fixture
def plan():
    sites = vit_adapter().sites
    return BUDGET.plan(sites, {site.name: 3 for site in sites if site.allocated})


def results(root, plan, **counts):
    search = search_over(vit_adapter(), root / "bank", **counts)
    quantized = QuantizedModel(search.adapter, search.bank)
    return validate(quantized, plan, search.task, Store(root / "store"), search.bank.identity), search


def equal(one, other):
    assert one.keys() == other.keys() == {"loss", "top1", "top5"}
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-5 if name == "loss" else 0)
    return True


def test_all_images_once_and_in_order(tmp_path, plan):
    found, search = results(tmp_path, plan)
    pictures = images(search.adapter, 60, seed=999)
    quantized = QuantizedModel(search.adapter, search.bank).apply(plan)
    with torch.inference_mode():
        expected = search.task.outcome(quantized.adapter.run(pictures), search.task.dataset._labels(pictures))
    assert equal(found, expected) and 0 < found["top1"].mean() < 1


@pytest.mark.parametrize(("piece", "batch_size"), [(7, 16), (16, 16), (20, 8), (60, 7), (59, 60), (1000, 1), (1, 3)])
def test_pieces_and_batches_do_not_matter(tmp_path, plan, monkeypatch, piece, batch_size):
    at_once, _ = results(tmp_path / "at once", plan, batch_size=60)
    monkeypatch.setattr(lampq.tasks.validation, "PIECE", piece)
    in_pieces, _ = results(tmp_path / "in pieces", plan, batch_size=batch_size)
    assert len(in_pieces["top1"]) == 60 and equal(in_pieces, at_once)


def test_an_interrupted_evaluation_goes_on_where_it_was(tmp_path, plan, monkeypatch):
    monkeypatch.setattr(lampq.tasks.validation, "PIECE", 20)
    run, started = ClassificationTask.measure, []

    def interrupted(quantized, task, start, stop):
        started.append(start)
        if len(started) == 3:
            raise KeyboardInterrupt
        return run(quantized, task, start, stop)

    monkeypatch.setattr(ClassificationTask, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        results(tmp_path, plan)
    assert started == [0, 20, 40]
    found, _ = results(tmp_path, plan)
    assert started == [0, 20, 40, 40]
    results(tmp_path, plan)
    assert len(started) == 4
    monkeypatch.setattr(ClassificationTask, "measure", run)
    expected, _ = results(tmp_path / "other", plan)
    assert equal(found, expected)


def test_another_plan_or_other_images_are_evaluated(tmp_path, plan):
    results(tmp_path, plan)
    for another, counts in ((BitPlan.full_precision(vit_adapter().sites), {}), (plan, {"validation_images": 30})):
        _, search = results(tmp_path, another, **counts)
        assert search.task.dataset.reads["validation"] == 1
    _, search = results(tmp_path, plan)
    assert search.task.dataset.reads["validation"] == 0


def test_paired_standard_errors_by_hand():
    """Five images: right in full precision 4, quantized 2; one becomes right, three become wrong."""
    before = {"top1": torch.tensor([1.0, 1, 1, 1, 0]), "top5": torch.ones(5)}
    after = {"top1": torch.tensor([1.0, 0, 0, 0, 1]), "top5": torch.tensor([1.0, 1, 1, 0, 1])}
    metrics = accuracy_metrics({k: v.double() for k, v in after.items()}, {k: v.double() for k, v in before.items()})
    assert metrics["top1"] == pytest.approx(40) and metrics["top5"] == pytest.approx(80)
    assert metrics["top1_full_precision"] == pytest.approx(80) and metrics["images"] == 5
    assert metrics["top1_standard_error"] == pytest.approx(100 * math.sqrt((2 * 0.36 + 3 * 0.16) / 4 / 5))
    assert metrics["top1_full_precision_standard_error"] == pytest.approx(100 * math.sqrt((4 * 0.04 + 0.64) / 4 / 5))
    assert metrics["top1_difference"] == pytest.approx(-40)
    # differences 0, -1, -1, -1, 1, mean -0.4
    squares = 0.4**2 + 3 * 0.6**2 + 1.4**2
    assert metrics["top1_difference_standard_error"] == pytest.approx(100 * math.sqrt(squares / 4 / 5))


def test_equal_answers_differ_by_exactly_nothing():
    answers = {"top1": (torch.rand(50) < 0.5).double(), "top5": torch.ones(50).double()}
    metrics = accuracy_metrics(answers, answers)
    assert metrics["top1_difference"] == 0 and metrics["top1_difference_standard_error"] == 0
    assert metrics["top1_standard_error"] > 0


def test_one_image_has_no_standard_error():
    answers = {"top1": torch.ones(1).double(), "top5": torch.ones(1).double()}
    assert math.isnan(accuracy_metrics(answers, answers)["top1_standard_error"])
