import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import lampq.models.embedded.architectures as architectures
from lampq.datasets import shapes
from lampq.datasets.shape_drawing import OUTLINES, TEXTURES, Placement, draw_shapes
from lampq.errors import LampQError
from tests.datasets.identities import identities

STREAMS = (shapes.TRAINING_SEED, shapes.CALIBRATION_SEED, shapes.SAMPLE_SEED, shapes.TEST_SEED)
EMBEDDED_FOLDER = Path(architectures.__file__).parent


def placed(shapes_drawn: int, size: int) -> Placement:
    """Shapes in the middle of the square, upright, with textures of six pixels."""
    values = {"centre_x": size / 2, "centre_y": size / 2, "radius": size / 3, "cosine": 1.0, "sine": 0.0}
    values |= {"period": 6.0, "slope": 0.0, "phase_x": 0.1, "phase_y": 0.2}
    return Placement(**{key: np.full(shapes_drawn, value, dtype=np.float32) for key, value in values.items()})


def test_images_and_labels_have_their_types_and_ranges():
    images, labels = shapes.generate_shapes(200, 7)
    assert images.shape == (200, 40, 40, 3) and images.dtype == np.uint8
    assert labels.shape == (200,) and labels.dtype == np.int64
    assert images.min() < 20 and images.max() > 235
    assert labels.min() == 0 and labels.max() == 99


def test_an_image_depends_on_its_seed_and_index_alone():
    images, labels = shapes.generate_shapes(shapes.CHUNK + 9, 7)
    again, again_labels = shapes.generate_shapes(shapes.CHUNK + 9, 7)
    assert np.array_equal(images, again) and np.array_equal(labels, again_labels)
    fewer, fewer_labels = shapes.generate_shapes(5, 7)
    assert np.array_equal(images[:5], fewer) and np.array_equal(labels[:5], fewer_labels)
    later, later_labels = shapes.generate_shapes(3, 7, first=shapes.CHUNK + 6)
    assert np.array_equal(images[-3:], later) and np.array_equal(labels[-3:], later_labels)


def test_revision_is_raised_when_a_pixel_changes():
    images, labels = shapes.generate_shapes(100, shapes.SAMPLE_SEED)
    sums = (images.astype(np.int64) * np.arange(1, 4)).sum((1, 2, 3))
    assert (shapes.REVISION, int(sums.sum()), sums[:3].tolist(), labels[:3].tolist()) == (
        1,
        112785875,
        [1040528, 1097785, 1386353],
        [11, 48, 85],
    )


def test_streams_share_no_image():
    drawn = [shapes.generate_shapes(200, seed)[0] for seed in STREAMS]
    drawn.append(shapes.generate_shapes(200, shapes.SAMPLE_SEED, first=shapes.IMAGES_PER_RUN_SEED)[0])
    assert len(set(STREAMS)) == 4
    assert len({image.tobytes() for images in drawn for image in images}) == 5 * 200


@pytest.mark.parametrize("first", [0, 37, shapes.IMAGES_PER_RUN_SEED])
def test_a_hundred_images_in_a_row_hold_every_class_once(first):
    _, labels = shapes.generate_shapes(200, 7, first=first)
    assert sorted(labels[:100]) == list(range(100))
    assert sorted(labels[100:]) == list(range(100))


def test_every_class_can_be_drawn_and_differs_from_every_other():
    size, classes = 48, np.arange(100)
    coverage, tone, contour = draw_shapes(classes // 10, classes % 10, placed(100, size), size)
    masks = coverage > 0.5
    area = masks.mean((1, 2))
    assert len(shapes.CLASS_NAMES) == len(set(shapes.CLASS_NAMES)) == len(OUTLINES) * len(TEXTURES) == 100
    assert (area > 0.1).all() and (area < 0.4).all()
    assert not masks[:, 0].any() and not masks[:, :, -1].any()  # nothing is cut off
    for array in (coverage, tone, contour):
        assert array.dtype == np.float32 and array.min() >= 0 and array.max() <= 1
    assert (contour <= coverage).all() and (contour.sum((1, 2)) > 20).all()
    outlines, textures = masks[::10].reshape(10, -1), tone[:10].reshape(10, -1)
    for first in range(10):
        for second in range(first):
            assert (outlines[first] != outlines[second]).mean() > 0.015  # the nearest pair, circle and hexagon: 0.019
            assert np.abs(textures[first] - textures[second]).mean() > 0.1


def test_a_shape_is_drawn_alike_alone_and_among_others():
    classes = np.arange(100)
    together = draw_shapes(classes // 10, classes % 10, placed(100, 40), 40)
    alone = draw_shapes(classes[63:64] // 10, classes[63:64] % 10, placed(1, 40), 40)
    for many, one in zip(together, alone, strict=True):
        assert np.array_equal(many[63], one[0])


def test_difficulty_zero_is_calmer():
    clear, _ = shapes.generate_shapes(100, 7, difficulty=0.0)
    full, _ = shapes.generate_shapes(100, 7)
    roughness = [np.abs(np.diff(images.astype(float)[:, :5], axis=2)).mean() for images in (clear, full)]
    assert roughness[0] < 0.5 * roughness[1]


def test_normalised_images_have_about_zero_mean_and_unit_deviation():
    images = shapes.normalize(shapes.generate_shapes(300, 7)[0])
    assert images.shape == (300, 3, 40, 40) and images.dtype == torch.float32
    assert (images.mean((0, 2, 3)).abs() < 0.1).all()
    assert ((images.std((0, 2, 3)) - 1).abs() < 0.1).all()


def test_a_wrong_number_is_named():
    for value in [0, -3, 2.5]:
        for key in ["calibration_images", "sample_images", "validation_images", "batch_size"]:
            with pytest.raises(LampQError, match=re.escape(f"dataset.{key}={value}")) as error:
                shapes.Shapes(**{key: value})
                pytest.fail(f"accepted: {value}, {key}")
            assert "\n" not in str(error.value), (key, value)


def test_a_model_of_another_size_or_of_other_classes_is_refused():
    dataset = shapes.Shapes()
    dataset.bind(SimpleNamespace(name="shapes_vit", input_size=(3, 40, 40), classes=100))
    with pytest.raises(LampQError, match=r"deit_tiny takes \(3, 224, 224\)"):
        dataset.bind(SimpleNamespace(name="deit_tiny", input_size=(3, 224, 224)))
    with pytest.raises(LampQError, match="has 100 classes, and other knows 10; choose a model trained on them"):
        dataset.bind(SimpleNamespace(name="other", input_size=(3, 40, 40), classes=10))


def test_the_data_set_hands_out_its_three_image_sets():
    dataset = shapes.Shapes(calibration_images=4, sample_images=6, validation_images=10, batch_size=4)
    assert dataset.calibration(0).shape == (4, 3, 40, 40)
    images, labels = dataset.sample(0)
    assert images.shape == (6, 3, 40, 40) and labels.tolist() == shapes.generate_shapes(6, 7)[1].tolist()
    assert [len(labels) for _, labels in dataset.validation()] == [4, 4, 2]
    assert dataset.validation_count == 10
    whole = torch.cat([images for images, _ in dataset.validation()])
    assert torch.equal(torch.cat([images for images, _ in dataset.validation(start=3)]), whole[3:])


def test_training_images_begin_with_the_calibration_images():
    data = shapes.Shapes(calibration_images=3)
    images = data.training(1, 5)
    assert images.shape == (5, *data.input_size) and torch.equal(images[:3], data.calibration(1))
    assert data.names("training", 1, 3) == data.listing(1)["calibration"]
    assert data.identity("training", 1, 3) == data.identity("calibration", 1) != data.identity("training", 1, 5)
    with pytest.raises(LampQError, match=r"base_quantizer\.images="):
        data.identity("training", 0, shapes.IMAGES_PER_RUN_SEED + 1)


def test_the_seed_changes_calibration_and_sample_but_not_validation():
    dataset = shapes.Shapes(calibration_images=4, sample_images=4, validation_images=4)
    assert torch.equal(dataset.calibration(1), dataset.calibration(1))
    assert not torch.equal(dataset.calibration(0), dataset.calibration(1))
    assert not torch.equal(dataset.sample(0)[0], dataset.sample(1)[0])
    zero, one = identities(dataset), identities(dataset, 1)
    assert zero["calibration"] != one["calibration"] and zero["sample"] != one["sample"]
    assert zero["validation"] == one["validation"]
    assert json.loads(json.dumps(zero)) == zero
    listing = dataset.listing(3)
    assert listing["calibration"][2] == "calibration/seed3/2" and listing["validation"][3] == "validation/3"
    assert {name: len(names) for name, names in listing.items()} == {"calibration": 4, "sample": 4, "validation": 4}


@pytest.mark.parametrize("name", sorted(architectures.EMBEDDED))
def test_embedded_weights_reach_the_accuracy_of_their_card(name):
    model = architectures.build_embedded(name)
    path = EMBEDDED_FOLDER / f"{name}.safetensors"
    assert path.stat().st_size < 4_000_000
    model.load_state_dict(load_file(path), strict=True)
    images, labels = shapes.Shapes(sample_images=500).sample(0)
    with torch.inference_mode():
        right = (model.eval()(images).argmax(1) == labels).double().mean().item()
    card = (EMBEDDED_FOLDER / f"{name}.md").read_text(encoding="utf-8")
    printed = float(re.search(r"top-1 on D[^|]*\| ([0-9.]+)", card)[1]) / 100
    assert abs(right - printed) < 4 * (printed * (1 - printed) / 500) ** 0.5


def test_an_unknown_embedded_model_is_named():
    with pytest.raises(LampQError, match="shapes_resnet"):
        architectures.build_embedded("shapes_resnet")


def test_the_embedded_swin_shifts_windows_and_reduces():
    model = architectures.build_embedded("shapes_swin")
    blocks = [block for layer in model.layers for block in layer.blocks]
    assert sum(max(block.shift_size) > 0 for block in blocks) >= 2
    assert sum(hasattr(layer.downsample, "reduction") for layer in model.layers) >= 1


@pytest.mark.parametrize("key", ["calibration_images", "sample_images", "validation_images"])
def test_more_images_than_a_stream_sets_aside_are_refused_at_once(key):
    with pytest.raises(LampQError, match=f"dataset.{key}=100000000: must be an integer between 1 and 1048576"):
        shapes.Shapes(**{key: 100_000_000})
