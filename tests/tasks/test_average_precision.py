"""COCO's average precision against mmdet's own metric, and its standard error against one that can be worked out."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO

from lampq.models.detection.mmdet_import import import_mmdet
from lampq.tasks.average_precision import class_matches, draw_images, match, precisions, resampled

IMAGES, CLASSES = 40, (3, 7)
RENAMED = {"": "", "50": "_50", "75": "_75", "_small": "_s", "_medium": "_m", "_large": "_l"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Objects of two classes and three sizes, and detections of them: moved, doubled, missed and made up."""
    generator = np.random.default_rng(1)
    objects, answers = [], []
    for image in range(1, IMAGES + 1):
        for _ in range(generator.integers(0, 5)):
            side = float(generator.choice([20.0, 60.0, 150.0]))
            box = [*generator.uniform(0, 200, 2).tolist(), side, side]
            label = int(generator.choice(CLASSES))
            row = {"image_id": image, "category_id": label, "bbox": box}
            objects.append({**row, "id": len(objects) + 1, "area": side**2, "iscrowd": int(generator.random() < 0.1)})
            for _ in range(generator.integers(0, 3)):
                moved = [value + float(generator.normal(0, side / 12)) for value in box]
                score = float(np.round(generator.uniform(0, 1), 1))  # equal scores happen
                answers.append({**row, "bbox": moved, "score": score})
        if generator.random() < 0.5:
            answers.append({"image_id": image, "category_id": 3, "bbox": [5.0, 5.0, 50.0, 50.0], "score": 0.45})
    images = [{"id": image, "height": 400, "width": 400} for image in range(1, IMAGES + 1)]
    path = tmp_path_factory.mktemp("scenes") / "instances.json"
    categories = [{"id": label, "name": str(label)} for label in CLASSES]
    path.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    return path, answers


def evaluated(path, answers, images=tuple(range(1, IMAGES + 1))):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
    return match(truth, [a for a in answers if a["image_id"] in images], list(images), list(CLASSES), "bbox")


def test_it_is_what_mmdets_metric_says(scenes):
    import_mmdet()
    from mmdet.evaluation import CocoMetric

    path, answers = scenes
    with contextlib.redirect_stdout(io.StringIO()):
        metric = CocoMetric(ann_file=str(path), metric="bbox")
    metric.dataset_meta = {"classes": tuple(map(str, CLASSES))}
    metric.img_ids, metric.cat_ids = list(range(1, IMAGES + 1)), list(CLASSES)
    found = []
    for image in metric.img_ids:
        own = [a for a in answers if a["image_id"] == image]
        boxes = np.array([a["bbox"] for a in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([CLASSES.index(a["category_id"]) for a in own], dtype=int)
        scores = np.array([a["score"] for a in own])
        found.append(({}, {"img_id": image, "bboxes": boxes, "scores": scores, "labels": labels}))
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = metric.compute_metrics(found)
    ours = precisions(evaluated(path, answers))
    assert len(set(ours.values())) == 6
    # They round to three digits of a share of 1.
    expected = {ending: 100 * theirs[f"bbox_mAP{suffix}"] for ending, suffix in RENAMED.items()}
    assert ours == pytest.approx(expected, abs=0.051)


def test_every_image_once_is_the_measure_itself(scenes):
    evaluation = evaluated(*scenes)
    (value,) = resampled(class_matches(evaluation), np.ones((1, IMAGES), dtype=int))
    assert value == pytest.approx(precisions(evaluation)[""], abs=1e-9)


def test_an_image_drawn_twice_is_there_twice(scenes, tmp_path):
    """Against COCO's own measure on a data set in which images are repeated."""
    path, answers = scenes
    answers = [{**answer, "score": answer["score"] + number * 1e-6} for number, answer in enumerate(answers)]
    weights = draw_images(IMAGES, 3)
    measured = resampled(class_matches(evaluated(path, answers)), weights)
    content = json.loads(path.read_text())
    for drawn, value in zip(weights, measured, strict=True):
        images, objects, found = [], [], []
        for image, times in enumerate(drawn.tolist(), 1):
            for copy in range(times):
                number = image + 1000 * copy
                images.append({"id": number, "height": 400, "width": 400})
                for row in content["annotations"]:
                    if row["image_id"] == image:
                        objects.append({**row, "image_id": number, "id": len(objects) + 1})
                found += [{**a, "image_id": number} for a in answers if a["image_id"] == image]
        repeated = tmp_path / "repeated.json"
        repeated.write_text(json.dumps({**content, "images": images, "annotations": objects}))
        again = evaluated(repeated, found, tuple(image["id"] for image in images))
        # COCO takes the copies of a detection one after the other, drawn together they count at once.
        assert value == pytest.approx(precisions(again)[""], abs=0.3)
    assert len(set(measured)) == 3


def test_the_error_of_a_mean_is_the_textbooks(scenes):
    """One object an image, found or not, always with the same certainty and nothing wrong: recall p, precision 1, and
    average precision is p in steps of 1 %, whose standard error is that of a share."""
    path, _ = scenes
    images, share = 400, 0.6
    box = [10.0, 10.0, 80.0, 80.0]
    rows = [
        {"id": i, "image_id": i, "category_id": 3, "bbox": box, "area": 6400.0, "iscrowd": 0} for i in range(1, 401)
    ]
    listed = [{"id": i, "height": 400, "width": 400} for i in range(1, images + 1)]
    one = path.parent / "one.json"
    one.write_text(json.dumps({"images": listed, "annotations": rows, "categories": [{"id": 3, "name": "3"}]}))
    found = [{"image_id": i, "category_id": 3, "bbox": box, "score": 0.5} for i in range(1, int(images * share) + 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(one))
    evaluation = match(truth, found, list(range(1, images + 1)), [3], "bbox")
    draws = resampled(class_matches(evaluation), draw_images(images, 1000))
    assert draws.std(ddof=1) == pytest.approx(100 * math.sqrt(share * (1 - share) / images), rel=0.1)
    assert draws.mean() == pytest.approx(100 * share, abs=0.6)


def test_nothing_to_be_found_and_nothing_found(scenes):
    path, answers = scenes
    classes = class_matches(evaluated(path, answers))
    assert resampled(classes, np.zeros((2, IMAGES), dtype=int)).tolist() == [0, 0]
    only = class_matches(evaluated(path, [a for a in answers if a["category_id"] == 3]))
    assert not only[1].image.size and only[1].objects.sum() > 0
    both = resampled(classes, draw_images(IMAGES, 4))
    assert (resampled(only, draw_images(IMAGES, 4)) < both).all()


def test_draws_are_the_same_for_every_model(scenes):
    assert (draw_images(50) == draw_images(50)).all() and draw_images(50).sum(1).tolist() == [50] * 200
