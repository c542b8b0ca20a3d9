"""What follows from the settings for each step."""

import pytest

from lampq.datasets.psaq.recipe import Recipe

PUBLISHED = {
    "steps": 500,
    "warmup": 0.2,
    "jitter": (15, 30),
    "flip": 0.5,
    "learning_rate": 0.2,
    "betas": (0.5, 0.9),
    "entropy_weight": 1.0,
    "class_weight": 1.0,
    "smoothness_weight": 0.05,
    "smoothness": (2500, 3000),
    "bandwidth": 0.01,
    "density_points": 10,
    "dropped": 1,
}


def test_the_learning_rate_rises_over_100_steps_and_falls_over_400_in_each_epoch():
    recipe = Recipe(**PUBLISHED)
    rate = recipe.learning_rate_at
    assert recipe.total_steps == 1000
    assert (rate(0), rate(49), rate(99), rate(100)) == pytest.approx((0.002, 0.1, 0.2, 0.2))
    assert rate(300) == pytest.approx(0.1) and 0 < rate(499) < 1e-5
    assert [rate(500 + step) for step in (0, 250, 499)] == [rate(step) for step in (0, 250, 499)]


def test_shifts_widen_in_the_second_epoch_and_follow_the_size():
    recipe = Recipe(**PUBLISHED)
    assert [recipe.largest_shift(step, 224) for step in (0, 499, 500, 999)] == [15, 15, 30, 30]
    assert [recipe.largest_shift(step, 40) for step in (0, 500)] == [3, 5]


def test_few_steps_and_no_warm_up():
    assert [Recipe(**{**PUBLISHED, "steps": 1}).learning_rate_at(step) for step in (0, 1)] == [0.2, 0.2]
    assert Recipe(**{**PUBLISHED, "warmup": 0}).learning_rate_at(0) == 0.2
