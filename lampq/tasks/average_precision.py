"""COCO's average precision, and how uncertain it is: the same measure on resampled images (the bootstrap).

An average precision is no mean over images, so it has no standard error of its own. Here images are drawn with
replacement, the same draws for every model that is measured on the same images. The standard deviation over the draws
is the standard error, and that of the difference between two models, draw by draw, is their paired one.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lampq.datasets.coco_annotations import Annotations

DRAWS = 200
"""Draws of images: the standard error is known to about 5 % then."""

DRAWS_AT_ONCE = 20
"""Bounds the memory: of each draw, a number for every detection of a class is held."""

SEED = 0

DETECTIONS = 100
"""The most confident ones of a class in an image are counted."""

SHOWN = {"": "all", "50": "all", "75": "all", "_small": "small", "_medium": "medium", "_large": "large"}
"""Endings of our metrics' names, and the sizes of objects that are looked at."""


def truth(annotations: Annotations, kind: str) -> Any:
    """pycocotools' ``COCO`` of what is to be found.

    An object whose outline is not known is found by its box like any other; for masks it is a region where nothing
    counts, neither as found nor as missed.

    Args:
        kind: ``bbox`` or ``segm``.
    """
    from pycocotools.coco import COCO

    objects = annotations.objects
    if kind == "segm":
        objects = [one if one["segmentation"] is not None else _region(one) for one in objects]
    found = COCO()
    found.dataset = {
        "images": [{"id": image.id, "height": image.height, "width": image.width} for image in annotations.images],
        "categories": [{"id": number, "name": name} for number, name in annotations.categories],
        "annotations": [dict(one) for one in objects],  # pycocotools writes into them
    }
    with quietly():
        found.createIndex()
    return found


def _region(one: dict[str, Any]) -> dict[str, Any]:
    """An annotation of which only the box is known, as one of a crowd in the box."""
    x, y, width, height = one["bbox"]
    box = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {**one, "iscrowd": 1, "segmentation": [box]}


def match(truth: Any, answers: list[dict], image_ids: list[int], category_ids: list[int], kind: str) -> Any:
    """Match detections to objects as COCO does.

    Args:
        truth: pycocotools' ``COCO`` of the annotation file.
        answers: detections in COCO's result format, one at least.
        image_ids: images that were looked at; in all others, nothing counts as missed.
        category_ids: classes that are looked at.
        kind: ``bbox`` or ``segm``.

    Returns:
        pycocotools' ``COCOeval``, accumulated.
    """
    from pycocotools.cocoeval import COCOeval

    if kind == "segm":
        # With a box beside it, pycocotools would take the box's area for the mask's.
        answers = [{key: value for key, value in answer.items() if key != "bbox"} for answer in answers]
    with quietly():
        evaluation = COCOeval(truth, truth.loadRes(answers), kind)
        evaluation.params.imgIds, evaluation.params.catIds = image_ids, category_ids
        evaluation.params.maxDets = [DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def precisions(evaluation: Any) -> dict[str, float]:
    """Average precision in percent, by the endings of `SHOWN`: at overlaps of 50 to 95 %, of 50 and of 75 %, and of
    small, medium and large objects; 0 where there is no object."""
    shown = {}
    for ending, size in SHOWN.items():
        # [overlaps, recalls, classes, sizes, most detections]
        precision = evaluation.eval["precision"][..., evaluation.params.areaRngLbl.index(size), 0]
        if ending.isdigit():
            precision = precision[np.isclose(evaluation.params.iouThrs, int(ending) / 100)]
        precision = precision[precision > -1]
        shown[ending] = 100 * float(precision.mean()) if precision.size else 0.0
    return shown


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class in all images, the most confident first, and what they match.

    Attributes:
        image: index of each detection's image, ``[detections]``.
        right: whether it matches an object, ``[overlaps, detections]``.
        wrong: whether it matches none; what counts neither way, as a detection of a crowd, is neither.
        objects: how many objects are to be found in each image, ``[images]``.
    """

    image: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray


def class_matches(evaluation: Any) -> list[ClassMatches]:
    """What is matched to what, class by class, objects of all sizes."""
    parameters = evaluation.params
    images, overlaps = len(parameters.imgIds), len(parameters.iouThrs)
    # A row for every class, size and image, in this order; None where there is neither object nor detection.
    rows = np.array([*evaluation.evalImgs, None], dtype=object)[:-1]
    rows = rows.reshape(len(parameters.catIds), len(parameters.areaRng), images)
    return [_class_matches(row, overlaps) for row in rows[:, parameters.areaRngLbl.index("all")]]


def _class_matches(rows: np.ndarray, overlaps: int) -> ClassMatches:
    objects = np.zeros(len(rows), dtype=np.int64)
    image, score = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    right, wrong = ([np.zeros((overlaps, 0), dtype=bool)] for _ in range(2))
    for number, row in enumerate(rows):
        if row is None:
            continue
        objects[number] = np.count_nonzero(np.asarray(row["gtIgnore"]) == 0)
        matched, ignored = np.asarray(row["dtMatches"]) > 0, np.asarray(row["dtIgnore"], dtype=bool)
        score.append(np.asarray(row["dtScores"], dtype=np.float64))
        image.append(np.full(len(score[-1]), number))
        right.append(matched & ~ignored)
        wrong.append(~matched & ~ignored)
    order = np.argsort(-np.concatenate(score), kind="stable")
    return ClassMatches(*(np.concatenate(each, axis=-1)[..., order] for each in (image, right, wrong)), objects)


def draw_images(images: int, draws: int = DRAWS) -> np.ndarray:
    """How often each image is drawn, ``[draws, images]``; the same for the same number of images."""
    return np.random.default_rng(SEED).multinomial(images, np.full(images, 1 / images), size=draws)


def resampled(classes: list[ClassMatches], weights: np.ndarray) -> np.ndarray:
    """Average precision in percent where every image counts as often as it is drawn.

    Args:
        weights: how often, ``[draws, images]``.

    Returns:
        ``[draws]``, over the classes with an object in a draw; 0 where there is none.
    """
    parts = [weights[start : start + DRAWS_AT_ONCE] for start in range(0, len(weights), DRAWS_AT_ONCE)]
    return np.concatenate([_resampled(classes, part) for part in parts])


def _resampled(classes: list[ClassMatches], weights: np.ndarray) -> np.ndarray:
    recalls = np.linspace(0, 1, 101)
    total, counted = np.zeros(len(weights)), np.zeros(len(weights))
    for matches in classes:
        objects = weights @ matches.objects
        counted += objects > 0
        if not matches.image.size:
            continue
        weight = weights[:, matches.image].astype(np.float64)
        for right, wrong in zip(matches.right, matches.wrong, strict=True):
            hits = np.cumsum(weight * right, axis=1)
            answers = hits + np.cumsum(weight * wrong, axis=1)
            precision = hits / np.maximum(answers, 1)
            # The best precision at this recall or a higher one.
            precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            for draw in np.flatnonzero(objects):
                places = np.searchsorted(hits[draw] / objects[draw], recalls)
                reached = precision[draw, places[places < len(right)]]
                total[draw] += reached.sum() / (len(recalls) * len(matches.right))
    return 100 * total / np.maximum(counted, 1)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what pycocotools prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
