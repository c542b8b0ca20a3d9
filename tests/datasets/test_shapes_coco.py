"""The embedded detection data set: made once, whole or not at all, and what it holds is what was drawn."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lampq.datasets import shapes_coco
from lampq.datasets.coco import normalize
from lampq.datasets.shape_scenes import OUTLINES, draw_scenes
from lampq.datasets.shapes_coco import IMAGES, ShapesCoco, draw_data_set
from lampq.errors import LampQError
from tests.datasets.identities import identities

DETECTOR = SimpleNamespace(name="small", task="detection", classes=10)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def bound(cache, **settings):
    dataset = ShapesCoco(str(cache), **settings)
    dataset.bind(DETECTOR)
    return dataset


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def small(monkeypatch, count=6):
    monkeypatch.setattr(shapes_coco, "IMAGES", {split: (stream, count) for split, (stream, _) in IMAGES.items()})


def test_nothing_is_made_before_it_is_needed(tmp_path):
    dataset = ShapesCoco(str(tmp_path / "cache"))
    assert not list(tmp_path.iterdir())
    assert dataset.annotation_file.name == "instances_val.json"


def test_what_it_holds_is_what_was_drawn(cache):
    dataset = bound(cache, sample_images=20)
    assert [name for _, name in dataset.categories] == list(OUTLINES) and dataset.validation_count == 300
    assert dataset.full_validation_images == 300 and dataset.notes() == []
    images, targets = dataset.sample(0)
    drawn = draw_scenes(*IMAGES["train"][::-1])
    for image, target in zip(images, targets, strict=True):
        scene = drawn[image.meta["img_id"] - 1]
        height, width = scene.image.shape[:2]
        assert image.meta["img_shape"] == image.meta["ori_shape"] == (height, width)
        assert image.meta["scale_factor"] == (1.0, 1.0) and image.size == image.meta["pad_shape"]
        pixels = normalize(torch.from_numpy(scene.image).permute(2, 0, 1))
        assert torch.equal(image.x[:, :height, :width], pixels)
        assert image.x[:, height:].abs().sum() == image.x[:, :, width:].abs().sum() == 0
        assert np.array_equal(target.boxes.numpy(), scene.boxes) and np.array_equal(target.masks.numpy(), scene.masks)
        assert np.array_equal(target.labels.numpy(), scene.labels)
    assert len({image.size for image in images}) == 3
    first = next(dataset.validation())
    assert first[1] == [1]
    pixels = normalize(torch.from_numpy(draw_scenes(1, IMAGES["val"][0])[0].image).permute(2, 0, 1))
    assert torch.equal(first[0][0].x, pixels), "a scene of 96 x 128 needs no padding"


def test_pycocotools_reads_its_annotations(cache, capsys):
    from pycocotools.coco import COCO

    for split, (stream, count) in IMAGES.items():
        annotated = COCO(str(bound(cache).annotation_files[split]))
        drawn = draw_scenes(40, stream)
        assert len(annotated.getImgIds()) == count
        for number in (1, 2, 3, 40):
            rows = annotated.loadAnns(annotated.getAnnIds([number]))
            scene = drawn[number - 1]
            masks = np.stack([annotated.annToMask(row) for row in rows])
            assert np.array_equal(masks, scene.masks) and [row["area"] for row in rows] == masks.sum((1, 2)).tolist()
            names = [annotated.loadCats(row["category_id"])[0]["name"] for row in rows]
            assert names == [OUTLINES[label] for label in scene.labels]
    capsys.readouterr()


def test_sets_follow_the_seed_and_are_disjoint(cache):
    dataset = bound(cache)
    first, other = dataset.listing(0), dataset.listing(1)
    assert first == bound(cache).listing(0) and first["sample"] != other["sample"]
    assert len(first["calibration"]) == 8 and len(first["sample"]) == 64 and len(first["validation"]) == 300
    assert not set(first["calibration"]) & set(first["sample"])
    training = dataset.names("training", 0, 437)
    assert training[:8] == first["calibration"] and training[436] == first["sample"][-1]
    assert not set(training[:436]) & set(first["sample"])
    with pytest.raises(LampQError, match=r"base_quantizer\.images=501: 500 images"):
        dataset.names("training", 0, 501)


def test_identities_of_published_runs_stay(cache):
    """What is drawn is known by the drawing's revision, not by the bytes that hold it."""
    folder = Path(__file__).resolve().parents[2] / "results" / "published" / "runs"
    dataset = bound(cache)
    mine = identities(dataset, training=64)
    published = [json.loads(path.read_text())["images"] for path in folder.glob("*/identity.json")]
    published = [images for images in published if images["calibration"].get("dataset") == "shapes_coco"]
    assert len(published) > 5
    for images in published:
        assert images == {name: json.loads(json.dumps(mine[name])) for name in images}


def test_revision_and_preprocessing_are_part_of_the_identity(cache, monkeypatch):
    dataset = bound(cache)
    before = identities(dataset)
    monkeypatch.setattr(shapes_coco, "REVISION", shapes_coco.REVISION + 1)
    after = identities(dataset)
    assert all(after[name] != before[name] for name in before)
    assert all(part["preprocessing"]["image_scale"] is None for part in before.values())


@pytest.mark.parametrize(
    "settings", [{"calibration_images": 2}, {"sample_images": 3}, {"validation_images": 5}], ids=lambda s: next(iter(s))
)
def test_options_change_their_set_alone(cache, settings):
    before, after = identities(bound(cache)), identities(bound(cache, **settings))
    changed = [name for name in before if after[name] != before[name]]
    assert changed == [next(iter(settings)).removesuffix("_images")]


def test_batches_do_not_matter(cache):
    single = list(bound(cache, validation_images=5).validation())
    joined = list(bound(cache, validation_images=5, batch_size=5).validation())
    assert [numbers for _, numbers in joined] == [[number for _, numbers in single for number in numbers]]
    assert all(torch.equal(a.x, images[0].x) for a, (images, _) in zip(joined[0][0], single, strict=True))


def test_what_a_killed_process_left_is_not_believed(tmp_path, monkeypatch):
    small(monkeypatch)
    whole = tmp_path / "whole"
    draw_data_set(whole)
    assert len(list((whole / "train").iterdir())) == len(list((whole / "val").iterdir())) == 6
    killed = tmp_path / "killed"

    def half(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shapes_coco, "_described", half)
        with pytest.raises(KeyboardInterrupt):
            draw_data_set(killed)
    assert not killed.exists() and (tmp_path / "killed.partial").is_dir()
    (tmp_path / "killed.partial" / "train" / "leftover.png").write_bytes(b"")
    draw_data_set(killed)
    assert contents(killed) == contents(whole) and not (tmp_path / "killed.partial").exists()


def draw_slowly(root):
    small_images = {split: (stream, 6) for split, (stream, _) in IMAGES.items()}
    shapes_coco.IMAGES = small_images
    write = shapes_coco._write_image

    def slowly(*arguments):
        time.sleep(0.2)
        return write(*arguments)

    shapes_coco._write_image = slowly
    draw_data_set(root)


def test_a_killed_process_and_two_at_once(tmp_path, monkeypatch):
    small(monkeypatch)
    draw_data_set(tmp_path / "whole")
    root = tmp_path / "data" / "made"
    started = multiprocessing.get_context("fork")
    first = started.Process(target=draw_slowly, args=(root,))
    first.start()
    while not list(Path(f"{root}.partial").glob("train/*.png")):
        assert first.is_alive()
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert not root.exists()
    both = [started.Process(target=draw_slowly, args=(root,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert contents(root) == contents(tmp_path / "whole")


def test_an_image_that_is_not_as_it_was_drawn_is_named_with_a_remedy(tmp_path, monkeypatch):
    small(monkeypatch)
    dataset = bound(tmp_path, calibration_images=2, sample_images=4)
    path = dataset.root / dataset.listing(0)["sample"][1]
    other = dataset.root / dataset.listing(0)["sample"][0]
    path.write_bytes(other.read_bytes())
    with pytest.raises(LampQError, match=rf"{path.name} is not as it was drawn; remove the folder .*made again"):
        dataset.sample(0)


def test_a_removed_image_is_named_with_a_remedy(tmp_path, monkeypatch):
    small(monkeypatch)
    dataset = bound(tmp_path, calibration_images=2, sample_images=4)
    (dataset.root / "val" / f"{3:012d}.png").unlink()
    with pytest.raises(LampQError, match=r"000000000003.png is listed .* remove the folder"):
        identities(dataset)


def test_models_of_other_classes_are_refused(cache):
    with pytest.raises(LampQError, match="dataset=shapes_coco: has 10 classes, and other knows 80"):
        ShapesCoco(str(cache)).bind(SimpleNamespace(name="other", task="detection", classes=80))


def test_ids_of_categories_have_gaps(cache):
    content = json.loads(bound(cache).annotation_file.read_text())
    numbers = sorted(row["id"] for row in content["categories"])
    assert numbers == list(range(1, 20, 2)) and {row["category_id"] for row in content["annotations"]} == set(numbers)
