"""Calibration, D and training images share none where there are enough, and as few as can be where there are not."""

import itertools

import pytest

from lampq.datasets.disjoint import DisjointSets


def test_enough_images_are_shared_by_none():
    sets = DisjointSets(1200, range(32), 500)
    assert sets.sample == list(range(1199, 699, -1)) and sets.training(512) == list(range(32, 544))
    assert sets.notes() == sets.notes(512) == []


def test_of_1000_images_512_for_training_are_the_first_ones():
    """What was trained on before D was drawn from the end: these runs stand."""
    sets = DisjointSets(1000, range(32), 500)
    assert sets.training(512) == list(range(512))
    assert sets.notes(512) == [
        "of the 512 training images 32 are calibration images and 12 are images of the sample set D: there are 1000 "
        "images in all"
    ]


def test_training_takes_calibration_images_before_those_of_d():
    sets = DisjointSets(20, range(4), 10)
    assert sets.training(6) == list(range(4, 10)) and sets.training(8) == [0, 1, *range(4, 10)]
    assert sets.training(10) == list(range(10)) and sets.training(12) == list(range(12))
    assert sets.training(20) == sets.training(50) == list(range(20))


def test_a_larger_d_extends_a_smaller_one_and_ends_with_the_calibration_images():
    samples = [DisjointSets(10, range(3), size).sample for size in range(1, 13)]
    assert samples[-1] == samples[9] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    for smaller, larger in itertools.pairwise(samples):
        assert larger[: len(smaller)] == smaller
    assert DisjointSets(10, range(3), 9).notes() == [
        "2 of the 9 images of the sample set D are calibration images: there are 10 images in all"
    ]


def test_listed_calibration_images_are_left_out_wherever_they_are():
    sets = DisjointSets(10, [9, 3, 7], 3)
    assert sets.sample == [8, 6, 5] and sets.training(4) == [0, 1, 2, 4] and sets.training(5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [2, 8, 9])
def test_training_may_begin_with_the_calibration_images(count):
    sets = DisjointSets(10, range(3), 2, apart=False)
    assert sets.training(count) == list(range(count))
    assert len(sets.notes(count)) == (count > 8)
