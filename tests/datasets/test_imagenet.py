"""ImageNet on disk: labels by WordNet id, lists by the seed, images as timm itself prepares them."""

import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from lampq.datasets.imagenet import ImageNet, wordnet_classes
from lampq.errors import LampQError
from lampq.models.timm_adapters import adapt
from tests.datasets.identities import identities
from tests.small_models import VIT_SIDE, vision_transformer

CLASSES = {"n01440764": 0, "n01443537": 1, "n02123045": 281, "n15075141": 999}
CONFIG = {
    "input_size": (3, VIT_SIDE, VIT_SIDE),
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.9,
    "crop_mode": "center",
}


def draw(path, seed, size=(33, 21), mode="RGB"):
    channels = {"RGB": (3,), "L": (), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A partial copy: four classes, sizes and colour modes that differ, one class without validation images."""
    root = tmp_path_factory.mktemp("imagenet")
    for split, names in (("train", list(CLASSES)), ("val", list(CLASSES)[1:])):
        for position, name in enumerate(names):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(4):
                size, mode = ((33, 21), (17, 40), (30, 30))[index % 3], ("RGB", "L", "RGB", "CMYK")[index]
                suffix = "JPEG" if index % 2 or mode == "CMYK" else "png"
                draw(folder / f"{split}_{position}_{index}.{suffix}", 10 * position + index, size, mode)
            (folder / "notes.txt").write_text("not an image")
    return root


def adapter(**changes):
    network = vision_transformer(1, num_classes=1000)
    return adapt("small", network, input_size=CONFIG["input_size"], data_config={**CONFIG, **changes})


def bound(root, config=None, **settings):
    dataset = ImageNet(str(root), **{"calibration_images": 3, "sample_images": 10, **settings})
    dataset.bind(adapter(**(config or {})))
    return dataset


def refused(action, *arguments, **options):
    with pytest.raises(LampQError) as caught:
        action(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def all_validation(dataset, start=0):
    batches = list(dataset.validation(start))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def test_the_canonical_order_of_classes():
    classes = wordnet_classes()
    assert len(classes) == 1000 and sorted(classes.values()) == list(range(1000))
    assert {name: classes[name] for name in CLASSES} == CLASSES and sorted(classes) == list(classes)


def test_labels_come_from_the_folders_name_not_its_place(copy):
    dataset = bound(copy)
    _, labels = all_validation(dataset)
    assert labels.tolist() == [1] * 4 + [281] * 4 + [999] * 4 and dataset.validation_count == 12
    _, labels = dataset.sample(0)
    expected = [CLASSES[path.split("/")[1]] for path in dataset.listing(0)["sample"]]
    assert labels.tolist() == expected and len(set(expected)) > 2


def test_lists_follow_the_seed_and_a_larger_d_contains_a_smaller(copy):
    first, again = bound(copy).listing(5), bound(copy).listing(5)
    assert first == again
    assert len(first["calibration"]) == 3 and len(set(first["sample"])) == 10
    assert not set(first["sample"]) & set(first["calibration"])
    assert all(path.startswith("train/") for path in first["sample"])
    other = bound(copy).listing(6)
    assert other["sample"] != first["sample"] and other["validation"] == first["validation"]
    assert bound(copy, sample_images=12).listing(5)["sample"][:10] == first["sample"]


def test_fewer_images_than_asked_for_are_all_used_and_said(copy):
    dataset = bound(copy, sample_images=1024, calibration_images=32, validation_images=50)
    assert len(dataset.listing(0)["sample"]) == len(dataset.listing(0)["calibration"]) == 16
    notes = dataset.notes()
    assert any("sample set D has 16 images" in note and "1024" in note for note in notes)
    assert any("calibration set has 16 images" in note for note in notes)
    assert any("16 of the 16 images of the sample set D are calibration images" in note for note in notes)
    assert any("12 validation images" in note for note in notes)
    assert bound(copy).notes() == []
    every = bound(copy).listing(0)["validation"]
    some = bound(copy, validation_images=5).listing(0)["validation"]
    assert some == [every[i * len(every) // 5] for i in range(5)]


def test_training_images_are_neither_of_calibration_nor_of_d_until_these_are_needed(copy):
    dataset = bound(copy, sample_images=8)
    listing = dataset.listing(0)
    assert not set(dataset.names("training", 0, 5)) & {*listing["calibration"], *listing["sample"]}
    assert dataset.notes(0, 5) == []
    listed = dataset.names("training", 0, 9)
    assert listed[:3] == listing["calibration"] and listed[-1] == listing["sample"][-1]
    assert dataset.notes(0, 9) == [
        "of the 9 training images 3 are calibration images and 1 are images of the sample set D: there are 16 "
        "images in all"
    ]
    assert dataset.training(0, 5).shape == (5, 3, VIT_SIDE, VIT_SIDE)
    assert dataset.identity("training", 0, 5) != dataset.identity("training", 1, 5)
    assert "base_quantizer.images=1000" in refused(dataset.identity, "training", 0, 1000)


def test_a_calibration_list_is_taken_as_it_is(copy, tmp_path):
    names = ["n15075141/train_3_0.png", "n01440764/train_0_1.JPEG"]
    (tmp_path / "list.txt").write_text("\n".join(names) + "\n\n")
    dataset = bound(copy, calibration_list=str(tmp_path / "list.txt"))
    assert dataset.listing(0)["calibration"] == dataset.listing(1)["calibration"] == [f"train/{n}" for n in names]
    assert not {f"train/{n}" for n in names} & {*dataset.listing(0)["sample"], *dataset.names("training", 0, 4)}
    assert dataset.calibration(0).shape == (2, 3, VIT_SIDE, VIT_SIDE)
    assert dataset.identity("calibration", 0) != bound(copy).identity("calibration", 0)
    (tmp_path / "list.txt").write_text("n15075141/absent.png")
    assert "absent.png is not there" in refused(dataset.listing, 0)
    for outside in ("../val/n15075141/val_2_0.png", str(copy / "val" / "n15075141" / "val_2_0.png")):
        (tmp_path / "list.txt").write_text(outside)
        assert f"{outside} is not under train/" in refused(dataset.listing, 0)
    (tmp_path / "list.txt").write_text("\n")
    assert "the list is empty" in refused(dataset.listing, 0)
    (tmp_path / "list.txt").unlink()
    assert "no such file" in refused(dataset.listing, 0)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A folder of images that are none of ImageNet's, at two depths."""
    root = tmp_path_factory.mktemp("others")
    (root / "deep" / "deeper").mkdir(parents=True)
    for index in range(6):
        draw(root / ("deep/deeper" if index % 2 else ".") / f"{index}.png", 100 + index)
    (root / "notes.txt").write_text("not an image")
    return root


def test_other_images_serve_calibration_and_training_and_change_no_other_set(copy, others):
    plain, dataset = bound(copy), bound(copy, calibration_root=str(others))
    listing, before = dataset.listing(0, 4), plain.listing(0, 4)
    assert (listing["sample"], listing["validation"]) == (before["sample"], before["validation"])
    assert dataset.identity("sample", 0) == plain.identity("sample", 0)
    assert len(listing["calibration"]) == 3 and {*listing["calibration"], *listing["training"]} <= {
        path.relative_to(others).as_posix() for path in others.rglob("*.png")
    }
    assert len({*listing["calibration"]} & {*listing["training"]}) == 1, "six images, of which three are apart"
    for which in ("calibration", "training"):
        assert dataset.identity(which, 0, 4) != plain.identity(which, 0, 4)
        assert dataset.identity(which, 0, 4) != dataset.identity(which, 1, 4), "drawn by the seed"
    assert dataset.calibration(0).shape == (3, 3, VIT_SIDE, VIT_SIDE) and len(dataset.training(0, 4)) == 4
    assert dataset.notes(0, 4) == [f"calibration and training images are drawn from the 6 images of {others}"]
    assert dataset.sample_trained_on(0, 4) == 0
    short = bound(copy, calibration_root=str(others), calibration_images=9)
    assert short.notes()[-1] == "the calibration set has 6 images, all there are, instead of 9"
    same = bound(copy, calibration_root=str(copy / "train"), calibration_images=16)
    assert same.sample_trained_on(0, None) == 10, "whoever gives ImageNet's own training images is told so"


def test_validation_images_among_the_other_images_are_told(copy, others):
    dataset = bound(copy, calibration_root=str(copy / "val"))
    for which in ("calibration", "validation"):
        dataset.identity(which, 0)
    assert dataset.repeated()[-1].startswith("3 of the validation images hold the same as images of ")
    plain = bound(copy, calibration_root=str(others))
    for which in ("calibration", "validation"):
        plain.identity(which, 0)
    assert not any("of the validation images" in line for line in plain.repeated())


def test_a_folder_of_other_images_that_cannot_serve_is_one_line(copy, others, tmp_path):
    assert f"dataset.calibration_root={tmp_path / 'no'}: no such folder" in refused(
        bound, copy, calibration_root=str(tmp_path / "no")
    )
    assert "no images (.jpeg" in refused(bound(copy, calibration_root=str(tmp_path)).listing, 0)
    both = {"calibration_root": str(others), "calibration_list": "list.txt"}
    assert "leave one of them out" in refused(bound, copy, **both)
    few = bound(copy, calibration_root=str(others))
    assert "base_quantizer.images=7: " in refused(few.identity, "training", 0, 7)


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
def test_images_are_prepared_as_timm_prepares_them(copy, crop_mode, interpolation, crop_pct):
    config = {**CONFIG, "crop_mode": crop_mode, "interpolation": interpolation, "crop_pct": crop_pct}
    dataset = bound(copy, config)
    transform = create_transform(**config, is_training=False)
    pictures, _ = all_validation(dataset)
    for path, picture in zip(dataset.listing(0)["validation"], pictures, strict=True):
        with Image.open(copy / path) as image:
            assert torch.equal(picture, transform(image.convert("RGB")))


def test_overrides_change_the_preprocessing(copy):
    config = {**CONFIG, "crop_pct": 0.875, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.25,) * 3}
    overrides = {"resize": 18, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.25] * 3}
    overridden, expected = bound(copy, **overrides), bound(copy, config)
    assert torch.equal(overridden.calibration(0), expected.calibration(0))
    assert identities(overridden) == identities(expected) != identities(bound(copy))
    for key, value in overrides.items():
        assert not torch.equal(bound(copy, **{key: value}).calibration(0), bound(copy).calibration(0))
        assert identities(bound(copy, **{key: value})) != identities(bound(copy))


def test_wrong_settings_are_refused(copy):
    for settings, says in [
        ({"resize": 3}, "at least the crop of 16"),
        ({"resize": "16"}, "dataset.resize='16': must be an integer"),
        ({"crop_size": 8}, "the model takes 16 pixels"),
        ({"interpolation": "bicubik"}, "did you mean bicubic?"),
        ({"mean": [0.5]}, "three numbers"),
        ({"mean": "0.5"}, "three numbers"),
        ({"std": [1, 1, 0]}, "dataset.std=0"),
        ({"calibration_images": 0}, "dataset.calibration_images=0"),
        ({"sample_images": 1.5}, "dataset.sample_images=1.5"),
        ({"batch_size": 0}, "dataset.batch_size=0"),
        ({"workers": 0}, "dataset.workers=0"),
        ({"validation_images": 0}, "dataset.validation_images=0"),
        ({"calibration_list": 3}, "dataset.calibration_list=3"),
    ]:
        assert says in refused(bound, copy, **settings), (settings, says)


def test_models_of_other_classes_are_refused(copy):
    dataset = ImageNet(str(copy))
    for classes in (0, 10, 21_843):
        other = adapt("small", vision_transformer(1, num_classes=classes), input_size=(3, 16, 16), data_config=CONFIG)
        assert f"it knows {classes} classes, not the 1000" in refused(dataset.bind, other)


@pytest.mark.parametrize("batch_size", [1, 5, 12, 100])
def test_batches_do_not_matter_and_reading_starts_anywhere(copy, batch_size):
    pictures, labels = all_validation(bound(copy))
    dataset = bound(copy, batch_size=batch_size, workers=1)
    for start in (0, 1, 5, 11):
        mine = all_validation(dataset, start)
        assert torch.equal(mine[0], pictures[start:]) and torch.equal(mine[1], labels[start:])
    assert {len(batch) for batch, _ in dataset.validation()} <= {batch_size, 12 % batch_size or batch_size}


def test_reading_may_stop_early(copy):
    pictures, _ = all_validation(bound(copy))
    for batch, _ in bound(copy, batch_size=2).validation():
        assert torch.equal(batch, pictures[:2])
        break


def test_an_image_that_cannot_be_read_is_named(copy, tmp_path):
    folder = tmp_path / "train" / "n01440764"
    folder.mkdir(parents=True)
    (tmp_path / "val").symlink_to(copy / "val")
    whole = (copy / "train" / "n01440764" / "train_0_1.JPEG").read_bytes()
    for content in (b"", b"<html>", whole[: len(whole) // 2]):
        (folder / "bad.JPEG").write_bytes(content)
        for read in (bound(tmp_path).calibration, partial(bound(tmp_path).identity, "calibration")):
            assert "bad.JPEG cannot be read" in refused(read, 0)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_folder_that_is_no_class_is_named_at_the_start(copy, tmp_path, split):
    shutil.copytree(copy, tmp_path, dirs_exist_ok=True)
    (tmp_path / split / "tench").mkdir()
    assert identities(bound(tmp_path)) == identities(bound(copy)), "nothing in it"
    draw(tmp_path / split / "tench" / "1.png", 0)
    assert f"{split}/tench is not a WordNet id" in refused(bound, tmp_path)


def test_a_class_folder_without_images_is_told(copy, tmp_path):
    shutil.copytree(copy, tmp_path, dirs_exist_ok=True)
    (tmp_path / "val" / "n02119789").mkdir()
    assert bound(tmp_path).notes() == ["1 class folders of val/ hold no images, for example n02119789"]


def test_missing_folders_and_images_are_refused(copy, tmp_path):
    assert "has no folder train/" in refused(ImageNet, str(tmp_path))
    (tmp_path / "train").mkdir()
    assert "has no folder val/" in refused(ImageNet, str(tmp_path))
    (tmp_path / "val").mkdir()
    assert "no images under train/" in refused(bound, tmp_path)
    assert "dataset.root=null" in refused(ImageNet, None)


@pytest.mark.parametrize("name", ["calibration", "sample", "validation", "training"])
def test_other_images_under_the_same_names_are_other_images(copy, tmp_path, name):
    shutil.copytree(copy, tmp_path, dirs_exist_ok=True)

    def known():
        return identities(bound(tmp_path, sample_images=8), training=5)

    before, dataset = known(), bound(tmp_path, sample_images=8)
    path = dataset.listing(0, 5)[name][-1]
    draw(tmp_path / path, 99)
    after = known()
    assert [key for key in before if before[key] != after[key]] == [name]


def test_only_files_of_the_wanted_sets_are_looked_at(copy, tmp_path):
    shutil.copytree(copy, tmp_path, dirs_exist_ok=True)
    for path in bound(tmp_path).listing(0)["validation"]:
        (tmp_path / path).write_text("no image")
    assert bound(tmp_path).identity("calibration", 0) == bound(copy).identity("calibration", 0)
    assert "cannot be read" in refused(bound(tmp_path).identity, "validation", 0)


def test_an_image_that_changes_after_it_was_identified_is_not_read(copy, tmp_path):
    shutil.copytree(copy, tmp_path, dirs_exist_ok=True)
    dataset = bound(tmp_path)
    identities(dataset)
    path = tmp_path / dataset.listing(0)["calibration"][1]
    draw(path, 99)
    assert f"{path}: has changed since" in refused(dataset.calibration, 0)


def test_rows_of_the_new_d_can_be_told_from_older_ones(copy):
    identity = identities(bound(copy))
    assert identity["sample"]["drawn"] == "disjoint"
    assert all("content" in known and "list" not in known for known in identity.values())


def test_the_root_is_not_part_of_the_identity(copy, tmp_path):
    (tmp_path / "elsewhere").symlink_to(copy)
    assert identities(bound(tmp_path / "elsewhere")) == identities(bound(copy))
    assert str(copy) not in str(bound(copy).listing(0))
