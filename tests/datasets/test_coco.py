"""COCO on disk: pixels, boxes and masks as mmdet itself prepares them; lists by the seed; mistakes in one line."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from lampq.datasets.coco import Coco
from lampq.datasets.coco_annotations import read_annotations, run_lengths
from lampq.errors import LampQError
from lampq.storage.fingerprint import fingerprint
from lampq.tasks.average_precision import truth
from tests.datasets.identities import identities

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "person"}]
DETECTOR = SimpleNamespace(name="small", task="detection", classes=2)
REAL = Path(os.environ.get("LAMPQ_DATA", "")) / "coco_subset"


def refused(action, *arguments, **options):
    with pytest.raises(LampQError) as caught:
        action(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def annotation(number, image, height, width, kind):
    """One instance near the image's middle (or over its border), its outline given in one of COCO's ways."""
    left, top, across, down = (0.31 * width, 0.22 * height, 0.4 * width, 0.51 * height)
    if kind == "border":
        left, across = -3.0, 0.3 * width
    right, bottom = left + across, top + down
    row = {"id": number, "image_id": image, "category_id": 3 if number % 2 else 7, "iscrowd": 0}
    row |= {"bbox": [left, top, across, down], "area": across * down / 2}
    if kind in ("polygon", "border"):
        row["segmentation"] = [
            [left, top, right, top + 3, right - 2, bottom],
            [left, top, left + 4, bottom, left, bottom],
        ]
    else:
        mask = np.zeros((height, width), dtype=bool)
        mask[int(top) : int(bottom), int(left) : int(right)] = True
        mask[0, 0] = kind == "corner"
        row["segmentation"] = run_lengths(mask)
        if kind == "packed":
            from pycocotools import mask as rle

            packed = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            row["segmentation"] = {"size": packed["size"], "counts": packed["counts"].decode()}
    return row


def write(root, split, count, first=1):
    """Images of different sizes with two or three instances, and one image that has a crowd only."""
    folder = root / f"{split}2017"
    folder.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, rows = [], []
    for index in reversed(range(count)):
        number = first + index
        height, width = ((60, 90), (81, 50), (64, 64), (40, 133))[index % 4]
        name = f"{number:012d}.{'jpg' if index % 2 else 'png'}"
        pixels = np.random.default_rng(number).integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(pixels, (width, height)))
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        kinds = ("polygon", "border", "plain", "corner", "packed")
        for kind in (kinds[index % 5], kinds[(index + 2) % 5]):
            rows.append(annotation(len(rows) + 1, number, height, width, kind))
        rows.append({**annotation(len(rows) + 1, number, height, width, "plain"), "iscrowd": 1})
        if index == count - 1:
            for row in rows:
                row["iscrowd"] = 1
    content = {"images": images, "annotations": rows, "categories": CATEGORIES}
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    write(root, "train", 13)
    write(root, "val", 7, first=101)
    return root


@pytest.fixture
def damaged(tmp_path):
    """A copy to be damaged."""
    write(tmp_path, "train", 5)
    write(tmp_path, "val", 3, first=101)
    return tmp_path


def coco(root, **settings):
    dataset = Coco(str(root), **{"calibration_images": 2, "sample_images": 4, "image_scale": [120, 75], **settings})
    dataset.bind(DETECTOR)
    return dataset


def mmdet_pipeline(root, split, annotations, image_scale, classes):
    """mmdet's own data set with its test pipeline; annotations before resizing, as in training."""
    from lampq.models.detection.mmdet_import import import_mmdet

    import_mmdet()
    from mmdet.registry import DATASETS

    resized = {"scale": tuple(image_scale)} if image_scale else {"scale_factor": 1.0}
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    return DATASETS.build(
        {
            "type": "CocoDataset",
            "data_root": str(root),
            "ann_file": str(annotations),
            "data_prefix": {"img": f"{split}/"},
            "metainfo": {"classes": classes},
            "test_mode": True,
            "pipeline": [
                {"type": "LoadImageFromFile"},
                {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
                {"type": "Resize", "keep_ratio": True, **resized},
                {"type": "PackDetInputs", "meta_keys": keys},
            ],
        }
    )


def assert_as_mmdet(images, targets, reference):
    """Every image, and where there are targets every instance, equals mmdet's to the last bit."""
    from mmdet.models.data_preprocessors import DetDataPreprocessor

    from lampq.models.embedded.detectors import SHAPES_MASK_RCNN

    settings = {key: value for key, value in SHAPES_MASK_RCNN["data_preprocessor"].items() if key != "type"}
    preprocessor = DetDataPreprocessor(**settings)
    by_id = {reference.get_data_info(i)["img_id"]: i for i in range(len(reference))}
    for number, image in enumerate(images):
        item = reference[by_id[image.meta["img_id"]]]
        sample = item["data_samples"]
        batch = preprocessor({"inputs": [item["inputs"]], "data_samples": [sample]})
        assert torch.equal(batch["inputs"][0], image.x) and image.size == tuple(image.x.shape[1:])
        expected = batch["data_samples"][0].metainfo
        expected.setdefault("scale_factor", (1.0, 1.0))
        assert {key: expected[key] for key in image.meta} == image.meta
        if targets is not None:
            known = sample.gt_instances
            assert torch.equal(known.bboxes.tensor, targets[number].boxes)
            assert torch.equal(known.labels, targets[number].labels)
            height, width = image.meta["img_shape"]
            masks = torch.from_numpy(known.masks.masks[:, :height, :width].astype(bool))  # padded by the preprocessor
            assert torch.equal(masks, targets[number].masks) and len(masks) > 0


@pytest.mark.parametrize("image_scale", [[120, 75], [75, 120], [1333, 800], [64, 40], None])
def test_images_and_instances_are_those_of_mmdet(copy, image_scale):
    dataset = coco(copy, image_scale=image_scale, sample_images=10)
    assert dataset.categories == ((3, "person"), (7, "cat"))
    classes = tuple(name for _, name in dataset.categories)
    # mmdet numbers classes as the file lists them; a file sorted by the ids has the same numbers in both.
    content = json.loads((copy / "annotations" / "instances_train2017.json").read_text())
    content["categories"].sort(key=lambda row: row["id"])
    (copy / "annotations" / "sorted.json").write_text(json.dumps(content))
    reference = mmdet_pipeline(copy, "train2017", copy / "annotations" / "sorted.json", image_scale, classes)
    images, targets = dataset.sample(0)
    assert len(images) == len(targets) == 10 and len({image.x.shape for image in images}) > 1
    assert_as_mmdet(images, targets, reference)
    assert all(target.masks.flatten(1).any(1).all() for target in targets)


@pytest.mark.skipif(not REAL.is_dir(), reason="LAMPQ_DATA names no folder with coco_subset/")
def test_real_images_are_those_of_mmdet():
    dataset = Coco(str(REAL), calibration_images=2, sample_images=3, validation_images=3)
    dataset.bind(SimpleNamespace(name="detector", task="detection", classes=80))
    classes = tuple(name for _, name in dataset.categories)
    reference = mmdet_pipeline(REAL, "train2017", dataset.annotation_files["train"], (1333, 800), classes)
    assert_as_mmdet(*dataset.sample(0), reference)
    assert_as_mmdet(dataset.calibration(0), None, reference)
    reference = mmdet_pipeline(REAL, "val2017", dataset.annotation_file, (1333, 800), classes)
    for images, _ in dataset.validation():
        assert_as_mmdet(images, None, reference)


def test_no_image_is_in_two_sets(copy):
    for seed in range(5):
        listing = coco(copy, calibration_images=3, sample_images=9).listing(seed)
        calibration, sample = set(listing["calibration"]), set(listing["sample"])
        assert len(calibration) == 3 and len(sample) == 9 and not calibration & sample
        assert all(path.startswith("train2017/") for path in calibration | sample)
        assert all(path.startswith("val2017/") for path in listing["validation"])
        assert not any("000000000013" in path for path in calibration | sample), "it has a crowd only"


def test_lists_follow_the_seed_and_smaller_sets_are_prefixes(copy):
    first = coco(copy).listing(5)
    assert first == coco(copy).listing(5)
    other = coco(copy).listing(6)
    assert other["sample"] != first["sample"] and other["validation"] == first["validation"]
    larger = coco(copy, calibration_images=5, sample_images=7).listing(5)
    assert larger["calibration"][:2] == first["calibration"] and larger["sample"][:4] == first["sample"]
    dataset = coco(copy)
    assert dataset.listing(6) == other and dataset.listing(5) == first, "one object serves one seed after the other"


def test_training_images_are_neither_of_calibration_nor_of_d_until_these_are_needed(copy):
    dataset = coco(copy)
    listing, listed = dataset.listing(0), dataset.names("training", 0, 6)
    assert len(set(listed)) == 6 and not set(listed) & {*listing["calibration"], *listing["sample"]}
    images = dataset.training(0, 6)
    assert [f"{image.meta['img_id']:012d}" for image in images] == [Path(path).stem for path in listed]
    more = dataset.names("training", 0, 9)
    assert more[:2] == listing["calibration"] and more[2:8] == listed and more[8] == listing["sample"][-1]
    assert dataset.notes(0, 6) == []
    assert "2 are calibration images and 1 are images of the sample set D" in dataset.notes(0, 9)[0]
    assert "base_quantizer.images=13: 12 images" in refused(dataset.identity, "training", 0, 13)


def test_fewer_images_than_asked_for_are_all_used_and_said(copy):
    dataset = coco(copy, sample_images=500, calibration_images=2)
    listing = dataset.listing(0)
    assert len(set(listing["sample"])) == 12 and set(listing["sample"][-2:]) == set(listing["calibration"])
    notes = dataset.notes()
    assert "the sample set D has 12 images, all there are, instead of 500" in notes
    assert any("2 of the 12 images of the sample set D are calibration images" in note for note in notes)


@pytest.mark.parametrize("name", ["calibration", "sample", "validation", "training"])
def test_other_images_under_the_same_names_are_other_images(damaged, name):
    def known():
        return identities(coco(damaged, calibration_images=1, sample_images=2), training=1)

    before, dataset = known(), coco(damaged, calibration_images=1, sample_images=2)
    path = damaged / dataset.listing(0, 1)[name][-1]
    cv2.imwrite(str(path), cv2.imread(str(path))[::-1])
    after = known()
    assert [key for key in before if before[key] != after[key]] == [name]


def test_an_image_that_changes_after_it_was_identified_is_not_read(damaged):
    dataset = coco(damaged, calibration_images=1, sample_images=2)
    identities(dataset)
    path = damaged / dataset.listing(0)["sample"][1]
    path.write_bytes(path.read_bytes() + b" ")
    assert f"{path}: has changed since" in refused(dataset.sample, 0)


def test_annotations_that_change_between_two_jobs_are_read_again(damaged):
    dataset = coco(damaged, sample_images=1)
    before = dataset.listing(0)
    dataset.look_again()
    assert dataset.listing(0) == before
    edit(damaged, "val", lambda content: content["images"].pop())
    assert dataset.listing(0) == before, "one job sees one state"
    dataset.look_again()
    assert len(dataset.listing(0)["validation"]) == len(before["validation"]) - 1


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_batches_do_not_matter_and_reading_starts_anywhere(copy, batch_size):
    every = [pair for images, numbers in coco(copy).validation() for pair in zip(images, numbers, strict=True)]
    assert [number for _, number in every] == list(range(101, 108)) == [image.meta["img_id"] for image, _ in every]
    dataset = coco(copy, batch_size=batch_size)
    for start in (0, 2, 6):
        batches = list(dataset.validation(start))
        assert {len(images) for images, _ in batches[:-1]} <= {batch_size}
        found = [image for images, _ in batches for image in images]
        assert all(torch.equal(a.x, b.x) for a, (b, _) in zip(found, every[start:], strict=True))


def test_part_of_the_validation_images_is_spread_over_the_list(copy):
    dataset = coco(copy, validation_images=3)
    assert dataset.validation_count == 3 and coco(copy).validation_count == 7
    assert [number for _, numbers in dataset.validation() for number in numbers] == [101, 103, 105]


def test_identity_follows_what_the_numbers_depend_on(damaged):
    before = identities(coco(damaged, sample_images=2))
    assert before == identities(coco(damaged, sample_images=2, batch_size=3))
    for settings, changed in (
        ({"sample_images": 1}, ["sample"]),
        ({"calibration_images": 1}, ["calibration"]),
        ({"validation_images": 1}, ["validation"]),
        ({"image_scale": [130, 75]}, ["calibration", "sample", "validation"]),
    ):
        after = identities(coco(damaged, **{"sample_images": 2, **settings}))
        assert [name for name in before if after[name] != before[name]] == changed
    for split, name in (("train", "sample"), ("val", "validation")):
        path = damaged / "annotations" / f"instances_{split}2017.json"
        content = json.loads(path.read_text())
        for row in content["annotations"]:
            row["bbox"][0] += 1
        path.write_text(json.dumps(content))
        after = identities(coco(damaged, sample_images=2))
        assert after[name] != before[name] and after["calibration"] == before["calibration"]
    assert len(fingerprint(before)) == 16, "it can be written as JSON"


def test_crowds_which_average_precision_looks_at_are_part_of_the_identity(damaged):
    before = identities(coco(damaged, sample_images=2))

    def widen(content):
        next(row for row in content["annotations"] if row["iscrowd"])["bbox"][2] += 1

    edit(damaged, "val", widen)
    after = identities(coco(damaged, sample_images=2))
    assert [name for name in before if after[name] != before[name]] == ["validation"]


def test_other_annotation_files_choose_other_images(copy, tmp_path):
    for split in ("train", "val"):
        content = json.loads((copy / "annotations" / f"instances_{split}2017.json").read_text())
        content["images"] = content["images"][2:5]
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    files = {f"{split}_annotations": str(tmp_path / f"{split}.json") for split in ("train", "val")}
    dataset = coco(copy, sample_images=1, **files)
    assert dataset.validation_count == 3 and dataset.annotation_file == tmp_path / "val.json"
    assert "has 3 images, all there are, instead of 4" in coco(copy, **files).notes()[0]
    relative = coco(copy, train_annotations="annotations/instances_train2017.json")
    assert relative.listing(0) == coco(copy).listing(0)


def test_detectors_of_other_classes_are_refused(copy):
    dataset = coco(copy)
    other = SimpleNamespace(name="detector", task="detection", classes=80)
    assert "has 2 classes, and detector knows 80" in refused(dataset.bind, other)


def test_wrong_settings_are_refused(copy):
    for settings, says in [
        ({"calibration_images": 0}, "dataset.calibration_images=0"),
        ({"sample_images": "4"}, "dataset.sample_images='4'"),
        ({"validation_images": 0}, "dataset.validation_images=0"),
        ({"validation_images": 8}, "validation_images=8: "),
        ({"batch_size": 0}, "dataset.batch_size=0"),
        ({"image_scale": 800}, "dataset.image_scale=800: must be the longest and the shortest side"),
        ({"image_scale": [800]}, "the longest and the shortest"),
        ({"image_scale": [800, 8]}, "dataset.image_scale=8: must be an integer of at least 32"),
        ({"train_annotations": 3}, "dataset.train_annotations=3"),
        ({"val_annotations": "absent.json"}, "absent.json: no such file"),
    ]:
        assert says in refused(lambda settings=settings: coco(copy, **settings).listing(0)), (settings, says)


def test_missing_folders_are_refused(tmp_path):
    assert "dataset.root=null" in refused(Coco, None)
    assert "has no folder train2017/" in refused(Coco, str(tmp_path))
    (tmp_path / "train2017").mkdir()
    assert "instances_train2017.json: no such file" in refused(Coco, str(tmp_path))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "damaged JSON"),
        ("", "damaged JSON"),
        ("[]", "not in COCO's layout"),
        ("{}", "a row has no 'images'"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}]}', "lists no images"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "a row has no 'file_name'"),
    ],
)
def test_damaged_annotation_files_are_refused(damaged, content, says):
    path = damaged / "annotations" / "instances_val2017.json"
    path.write_text(content)
    message = refused(coco, damaged)
    assert says in message and str(path) in message


def edit(root, split, change):
    path = root / "annotations" / f"instances_{split}2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_annotations_without_instances_are_refused(damaged):
    edit(damaged, "train", lambda content: content["annotations"].clear())
    assert "no image has an instance" in refused(coco(damaged).listing, 0)


def test_files_of_different_data_sets_are_refused(damaged):
    edit(damaged, "train", lambda content: content["categories"].pop())
    assert "its categories are not those of" in refused(coco(damaged).listing, 0)


def test_instances_that_mmdet_leaves_out_are_left_out(damaged):
    path = damaged / "annotations" / "instances_train2017.json"
    before = read_annotations(path)
    useless = ({"bbox": [1, 1, 0.5, 9]}, {"bbox": [500, 1, 9, 9]}, {"area": 0}, {"category_id": 99}, {"ignore": True})
    useless += ({"segmentation": []}, {"segmentation": [[1, 2, 3, 4]]}, {"iscrowd": 1}, {"image_id": 99})
    good = next(rows[0] for rows in before.instances.values())

    def add(content):
        content["annotations"] += [{**good, **change} for change in useless]

    edit(damaged, "train", add)
    assert read_annotations(path).instances == before.instances
    edit(damaged, "train", lambda content: content["annotations"].append(good))
    assert read_annotations(path).instances != before.instances


def test_an_outline_that_cannot_be_drawn_is_named(damaged):
    def spoil(content):
        for row in content["annotations"]:
            row["segmentation"] = {"size": [1, 1], "counts": "not a mask"} if row["id"] % 2 else {"size": [1, 1]}

    edit(damaged, "train", spoil)
    assert "its outline cannot be drawn" in refused(coco(damaged, calibration_images=1, sample_images=3).sample, 0)


def test_everything_that_is_measured_has_a_number_of_its_own(damaged):
    """COCO's evaluation takes the object 0 for none; crowds are looked at, too."""
    path = damaged / "annotations" / "instances_val2017.json"
    before = read_annotations(path, objects=True)
    assert [one["id"] for one in before.objects] == list(range(1, 10))
    assert sum(one["iscrowd"] for one in before.objects) == 5

    def renumber(content):
        for number, row in enumerate(content["annotations"]):
            row["id"] = -number // 2
            row |= {key: str(row[key]) for key in ("image_id", "category_id")}
            if not row["iscrowd"]:
                del row["iscrowd"]

    edit(damaged, "val", renumber)
    after = read_annotations(path, objects=True)
    assert after.objects == before.objects and after.instances.keys() == before.instances.keys()


@pytest.mark.parametrize("outline", [None, [], [[1, 2, 3, 4]]])
def test_an_object_without_outline_counts_for_boxes_and_is_passed_over_for_masks(damaged, outline):
    edit(damaged, "val", lambda content: content["annotations"][4].update(segmentation=outline, iscrowd=0))
    found = read_annotations(damaged / "annotations" / "instances_val2017.json", objects=True)
    one = {kind: truth(found, kind).loadAnns(5)[0] for kind in ("bbox", "segm")}
    assert (one["bbox"]["iscrowd"], one["segm"]["iscrowd"]) == (0, 1)


SQUARE = [1, 1, 5, 1, 5, 5]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"segmentation": {"size": [1, 1], "counts": [0, 1]}}, "its outline cannot be drawn (it is of [1, 1] pixels"),
        ({"segmentation": {"size": [64, 64], "counts": [0, 9999]}}, "its runs cover 9999 of 4096 pixels"),
        ({"segmentation": {"size": [64, 64]}}, "its outline cannot be drawn"),
        ({"segmentation": [[*SQUARE[:5], 1e9]]}, "a corner is far outside the image, or no number"),
        ({"segmentation": [[*SQUARE[:5], float("nan")]]}, "a corner is far outside the image, or no number"),
        ({"bbox": [1, 1, float("nan"), 4]}, "has a box or an area of no number"),
        ({"bbox": [1, 1, 4]}, "has a box or an area of no number"),
        ({"area": "much"}, "not in COCO's layout"),
        ({"image_id": 1.5}, "image_id 1.5 is no whole number"),
    ],
)
def test_annotations_that_cannot_be_measured_are_refused_before_any_work(damaged, change, says):
    edit(damaged, "val", lambda content: content["annotations"][0].update({"image_id": 103, **change}))
    assert says in refused(coco, damaged)


@pytest.mark.parametrize("listed", ["images", "categories"])
def test_what_is_listed_twice_is_refused(damaged, listed):
    edit(damaged, "val", lambda content: content[listed].append(content[listed][0]))
    assert "is listed twice" in refused(coco, damaged)


def test_annotations_without_any_outline_are_refused(damaged):
    edit(damaged, "val", lambda content: [row.pop("segmentation") for row in content["annotations"]])
    assert "none of its annotations has an outline" in refused(coco, damaged)


def test_images_that_are_listed_and_missing_are_named(damaged):
    (damaged / "val2017" / "000000000102.jpg").unlink()
    message = refused(coco(damaged, sample_images=2).identity, "validation", 0)
    assert "000000000102.jpg is listed" in message and "dataset.val_annotations" in message


@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.98])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_an_image_that_cannot_be_read_is_named(damaged, cut, suffix):
    for path in (damaged / "train2017").glob(f"*.{suffix}"):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(cut * len(whole)) if cut < 1 else cut])
    dataset = coco(damaged, calibration_images=1, sample_images=3)
    message = refused(lambda: (dataset.calibration(0), dataset.sample(0)))
    assert f".{suffix} cannot be read" in message


def test_an_image_of_another_size_than_its_annotation_is_named(damaged):
    def heighten(content):
        for row in content["images"]:
            row["height"] += 1
        for row in content["annotations"]:
            row["segmentation"] = [SQUARE]  # run lengths would tell already

    edit(damaged, "train", heighten)
    assert "pixels, its annotation" in refused(coco(damaged, sample_images=2).calibration, 0)


def test_the_root_is_not_part_of_the_identity(copy, tmp_path):
    (tmp_path / "elsewhere").symlink_to(copy)
    assert identities(coco(tmp_path / "elsewhere")) == identities(coco(copy))
