"""What a classifier is judged by."""

import math

import pytest
import torch

from lampq.tasks.classification import ClassificationTask
from tests.small_models import MadeUpImages, vit_adapter

CPU = torch.device("cpu")


@pytest.fixture
def task():
    return ClassificationTask(vit_adapter(2), MadeUpImages(), 0, CPU)


def test_outcomes_by_hand(task):
    logits = torch.tensor([[3.0, 1, 2, 0, -1, -2, -3], [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6]])
    outcome = task.outcome(logits, torch.tensor([0, 2, 1]))
    assert outcome["top1"].tolist() == [1, 0, 0] and outcome["top5"].tolist() == [1, 1, 0]
    normalizer = math.log(sum(math.exp(x) for x in range(7)))
    assert outcome["loss"][1].item() == pytest.approx(normalizer - 2, rel=1e-12)
    assert outcome["loss"][2].item() == pytest.approx(normalizer - 1, rel=1e-12)
    assert all(values.dtype == torch.float64 for values in outcome.values())


def test_fewer_than_five_classes(task):
    outcome = task.outcome(torch.tensor([[0.0, 1, 2]]), torch.tensor([0]))
    assert outcome["top1"].tolist() == [0] and outcome["top5"].tolist() == [1]


def test_a_model_of_constant_logits_is_not_right(task):
    """A quantized model may collapse to equal logits, or to not-a-number; neither counts as knowing the answer."""
    labels = torch.arange(10)
    constant = task.outcome(torch.zeros(10, 10), labels)
    assert constant["top1"].tolist() == [1] + [0] * 9 and constant["top5"].tolist() == [1] * 5 + [0] * 5
    nothing = task.outcome(torch.full((10, 10), math.nan), labels)
    assert nothing["top1"].sum() == 0 and nothing["top5"].sum() == 0
    elsewhere = task.outcome(torch.tensor([[math.nan, 5.0, 1.0]]), torch.tensor([1]))
    assert elsewhere["top1"].tolist() == [0]


def test_top1_is_argmax(task):
    """Also where logits tie, as those of a model at few bits do."""
    logits = torch.randint(0, 4, (200, 10), generator=torch.Generator().manual_seed(0)).float()
    labels = torch.arange(200) % 10
    outcome = task.outcome(logits, labels)
    first_of_the_largest = torch.tensor([row.index(max(row)) for row in logits.tolist()])
    assert torch.equal(outcome["top1"], (first_of_the_largest == labels).double())


def test_images_are_read_when_needed_and_once(task):
    assert set(task.dataset.reads.values()) == {0}
    for _ in range(2):
        assert len(task.calibration_images) == 8 and len(task.sample_images) == len(task.sample_labels) == 64
    assert task.dataset.reads == {"calibration": 1, "sample": 1, "validation": 0}
    assert torch.equal(task.calibration_images, task.sample_images[:8])


def test_d_may_be_read_first_while_scoring_and_be_used_for_gradients_later(task):
    with torch.inference_mode():
        assert len(task.sample_images) == len(task.sample_labels)
    assert not task.sample_images.is_inference() and not task.sample_labels.is_inference()


def test_seeds_draw_other_training_images_and_the_same_validation_images(task):
    other = ClassificationTask(vit_adapter(2), MadeUpImages(), 1, CPU)
    assert not torch.equal(task.sample_images, other.sample_images)
    assert task.identity["sample"] != other.identity["sample"]
    assert task.identity["validation"] == other.identity["validation"]
    for (mine, _), (theirs, _) in zip(task.validation(), other.validation(), strict=True):
        assert torch.equal(mine, theirs)
