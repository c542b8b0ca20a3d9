"""Scenes for detection: the same on every machine, masks that are the visible parts, boxes that fit them."""

import numpy as np
import pytest

from lampq.datasets import shape_scenes, shapes
from lampq.datasets.shape_scenes import SIZES, draw_scenes

STREAMS = (shape_scenes.TRAINING_SEED, shape_scenes.CALIBRATION_SEED, shape_scenes.VALIDATION_SEED)


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes(120, 7)


def same(first, second):
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(first, second, strict=True)
        for name in ("image", "labels", "masks", "boxes")
    )


def test_scenes_have_their_types_and_sizes(scenes):
    for index, scene in enumerate(scenes):
        shape = SIZES[index % len(SIZES)]
        assert scene.image.shape == (*shape, 3) and scene.image.dtype == np.uint8
        assert scene.masks.shape == (len(scene.labels), *shape) and scene.masks.dtype == bool
        assert scene.labels.dtype == np.int64 and scene.boxes.dtype == np.float32
        assert 1 <= len(scene.labels) <= shape_scenes.MOST_SHAPES
    assert set(np.concatenate([scene.labels for scene in scenes])) == set(range(10))
    assert {len(scene.labels) for scene in scenes} >= {2, 3, 4, 5, 6}
    assert min(scene.image.min() for scene in scenes) < 10 and max(scene.image.max() for scene in scenes) == 255


def test_boxes_are_the_smallest_around_the_masks(scenes):
    for scene in scenes:
        for mask, (left, top, right, bottom) in zip(scene.masks, scene.boxes.astype(int), strict=True):
            rows, columns = np.nonzero(mask)
            assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (top, bottom, left, right)


def test_masks_are_visible_parts(scenes):
    overlapping = 0
    for scene in scenes:
        assert scene.masks.sum(0).max() <= 1, "no pixel belongs to two shapes"
        assert scene.masks.sum((1, 2)).min() >= shape_scenes.LEAST_AREA
        boxes = scene.boxes
        for i in range(len(boxes)):
            for j in range(i):
                apart = np.maximum(boxes[i, :2], boxes[j, :2]) >= np.minimum(boxes[i, 2:], boxes[j, 2:])
                overlapping += not apart.any()
    assert overlapping > 30
    widths = np.concatenate([scene.boxes[:, 2] - scene.boxes[:, 0] for scene in scenes])
    assert np.percentile(widths, 5) < 17 and np.percentile(widths, 95) > 35


def test_a_shape_that_lies_over_another_takes_its_pixels():
    """The last mask of a scene is whole: nothing was drawn after it, and its outline is darker than its inside."""
    darker = []
    for scene in draw_scenes(60, 11):
        mask, light = scene.masks[-1], scene.image.mean(-1)
        inner = mask.copy()
        for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
            inner &= np.roll(mask, shift, axis)
        darker.append(light[mask & ~inner].mean() < light[inner].mean())
    assert np.mean(darker) > 0.8


def test_a_scene_depends_on_its_seed_and_index_alone(scenes):
    assert same(scenes[:5], draw_scenes(5, 7))
    assert same(scenes[shape_scenes.CHUNK - 2 : shape_scenes.CHUNK + 3], draw_scenes(5, 7, shape_scenes.CHUNK - 2))
    assert not np.array_equal(draw_scenes(1, 8)[0].image, scenes[0].image)
    assert not np.array_equal(draw_scenes(1, 7, 3)[0].image, scenes[0].image)


def test_revision_is_raised_when_a_pixel_or_a_mask_changes():
    drawn = draw_scenes(30, shape_scenes.CALIBRATION_SEED)
    pixels = [int((scene.image.astype(np.int64) * np.arange(1, 4)).sum()) for scene in drawn]
    areas = [scene.masks.sum((1, 2)).tolist() for scene in drawn]
    found = (shape_scenes.REVISION, sum(pixels), pixels[:2], sum(map(sum, areas)), areas[0], drawn[0].labels.tolist())
    assert found == (1, 267146514, [7829831, 7327763], 45883, [1164, 590, 216], [1, 4, 6])


def test_streams_share_no_scene():
    drawn = [scene.image.tobytes() for seed in STREAMS for scene in draw_scenes(30, seed)]
    assert len(set(drawn)) == 3 * 30
    others = {shapes.TRAINING_SEED, shapes.CALIBRATION_SEED, shapes.SAMPLE_SEED, shapes.TEST_SEED}
    assert len(set(STREAMS)) == 3 and not others & set(STREAMS)
