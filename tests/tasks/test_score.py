"""When a plan counts as better than another on the same images."""

import math

import pytest
import torch

from lampq.tasks.score import Score, paired_change


def score(correct, loss):
    correct = None if correct is None else torch.tensor(correct, dtype=torch.float64)
    return Score(torch.tensor(loss, dtype=torch.float64), correct)


def test_by_accuracy_more_images_right_is_better_then_less_loss():
    worse, better = score([1, 0, 0], [0.1, 0.1, 0.1]), score([1, 1, 0], [9.0, 9.0, 9.0])
    assert better.improves_on(worse) and not worse.improves_on(better)
    assert score([0, 1], [0.1, 0.2]).improves_on(score([1, 0], [0.1, 0.3]))
    assert not score([0, 1], [0.1, 0.3]).improves_on(score([0, 1], [0.1, 0.3]))
    assert better.accuracy == pytest.approx(2 / 3) and better.mean_loss == 9


def test_where_no_image_is_right_or_wrong_accuracy_is_the_loss():
    assert score(None, [0.1, 0.2]).improves_on(score(None, [0.1, 0.3]))
    assert not score(None, [0.1, 0.3]).improves_on(score(None, [0.1, 0.2]))


def test_by_loss_right_answers_do_not_count():
    more_right, less_loss = score([1, 1, 0], [9.0, 9.0, 9.0]), score([1, 0, 0], [0.1, 0.1, 0.1])
    assert less_loss.improves_on(more_right, "loss") and not more_right.improves_on(less_loss, "loss")
    assert not less_loss.improves_on(less_loss, "loss")


def test_a_paired_change_by_hand():
    """Differences -0.4, -0.2, 0: their mean is -0.2, their standard deviation 0.2."""
    change, error = paired_change(score(None, [0.6, 1.8, 3.0]), score(None, [1.0, 2.0, 3.0]))
    assert (change, error) == (pytest.approx(-0.2), pytest.approx(0.2 / math.sqrt(3)))


def test_paired_asks_for_more_than_so_many_standard_errors():
    """The losses of single images differ much more than the plans do: pairs tell what means do not."""
    before, after = score([0, 1, 1], [1.0, 20.0, 300.0]), score([0, 0, 1], [0.6, 19.8, 300.0])
    assert after.improves_on(before, "paired", 1.7) and not after.improves_on(before, "paired", 1.8)
    assert not before.improves_on(after, "paired", 0.0) and not before.improves_on(before, "paired", 0.0)
    assert not score(None, [0.5]).improves_on(score(None, [1.0]), "paired"), "a single image has no error to compare"
