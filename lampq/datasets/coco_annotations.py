"""COCO's annotation files: which images there are, and the outlines of what is to be found in them."""

import json
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lampq.errors import LampQError
from lampq.models.detection.pictures import Instances

log = logging.getLogger(__name__)

LARGE = 100e6
"""Bytes from which on reading a file takes several seconds."""

FAR_OUTSIDE = 10
"""Corners of an outline may be so many times the image's height and width together away from its first pixel."""


@dataclass(frozen=True)
class ListedImage:
    """An image as its annotation file lists it; height and width in pixels."""

    id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True)
class Category:
    """A class as its annotation file lists it."""

    id: int
    name: str


@dataclass(frozen=True)
class Annotations:
    """What an annotation file says.

    Attributes:
        images: sorted by their ids.
        categories: (COCO's id, name) of class 0, 1 and so on, sorted by the ids.
        instances: COCO's annotations of every image that has any, by the image's id. Crowds, and what mmdet leaves out
            as well (an empty outline or box, a box outside the image), are dropped.
        objects: everything that average precision looks at, crowds too, numbered from 1 on in the file's order
            (`lampq.tasks.average_precision.truth`); an outline is in run lengths, or None where there is none. Empty
            where it is not asked for.
    """

    images: tuple[ListedImage, ...]
    categories: tuple[tuple[int, str], ...]
    instances: dict[int, list[dict[str, Any]]]
    objects: tuple[dict[str, Any], ...] = ()


def read_annotations(path: Path, objects: bool = False) -> Annotations:
    """Read an annotation file of COCO's layout (``images``, ``annotations``, ``categories``).

    What a file says of its annotations' own ids is not used: COCO's evaluation takes the id 0 for "nothing found".

    Args:
        objects: whether average precision will be measured on it: every outline is drawn once, so that one that cannot
            be drawn is named now.

    Raises:
        LampQError: no such file, damaged, or not of this layout.
    """
    if not path.is_file():
        raise LampQError(f"annotation file {path}: no such file; give one in COCO's layout (instances_*.json)")
    if path.stat().st_size > LARGE:
        log.info("reading annotations from %s", path)
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise LampQError(f"annotation file {path}: damaged JSON ({error}); download or write it again") from error
    except OSError as error:
        raise LampQError(f"annotation file {path}: cannot be read ({error.strerror}); give a readable file") from error
    try:
        images = _by_id("image", (_image(row) for row in content["images"]))
        classes = _by_id("category", (Category(_whole(row, "id"), str(row["name"])) for row in content["categories"]))
        if images and classes:
            rows = _numbered(content["annotations"], images, classes)
            instances: dict[int, list[dict[str, Any]]] = {}
            for row in rows:
                if _usable(row, images[row["image_id"]]):
                    instances.setdefault(row["image_id"], []).append(row)
            measured = enumerate(rows if objects else (), 1)
            found = tuple(_object(number, row, images[row["image_id"]]) for number, row in measured)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = f"a row has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise LampQError(
            f"annotation file {path}: is not in COCO's layout ({what}); give an instances_*.json with images, "
            "annotations and categories"
        ) from error
    if not images or not classes:
        raise LampQError(f"annotation file {path}: lists no {'categories' if images else 'images'}; give another one")
    _say_what_is_left_out(path, len(content["annotations"]) - len(rows), found)
    categories = tuple((number, classes[number].name) for number in sorted(classes))
    return Annotations(tuple(images[key] for key in sorted(images)), categories, instances, found)


def instances_in(
    image: ListedImage, rows: list[dict[str, Any]], categories: tuple[tuple[int, str], ...], size: tuple[int, int]
) -> Instances:
    """What is to be found in an image after resizing it to `size`, (height, width) in pixels.

    Boxes are scaled and cut at the border, masks drawn at the original size and then resized to the nearest pixel, as
    mmdet does.

    Raises:
        LampQError: an outline cannot be drawn.
    """
    import cv2
    from pycocotools import mask as rle

    classes = {number: label for label, (number, _) in enumerate(categories)}
    height, width = size
    masks = np.zeros((len(rows), height, width), dtype=bool)
    for mask, outline in zip(masks, drawn_outlines(image, rows), strict=True):
        mask[:] = cv2.resize(rle.decode(outline), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    corners = [(x, y, x + across, y + down) for x, y, across, down in (row["bbox"] for row in rows)]
    boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
    boxes = boxes * boxes.new_tensor([width / image.width, height / image.height]).repeat(2)
    boxes = torch.stack([boxes[:, i].clamp(0, height if i % 2 else width) for i in range(4)], dim=1)
    labels = torch.tensor([classes[row["category_id"]] for row in rows], dtype=torch.int64)
    return Instances(boxes, labels, torch.from_numpy(masks))


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A mask bool ``[height, width]`` as COCO writes it without compression: lengths of runs of 0, 1, 0 ... pixels,
    column by column."""
    pixels = np.concatenate([[False], mask.ravel(order="F")])
    borders = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]), [mask.size]])
    return {"size": list(mask.shape), "counts": np.diff(borders).tolist()}


def drawn_outlines(image: ListedImage, rows: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """`drawn_outline` of an image's annotations.

    Raises:
        LampQError: one cannot be drawn.
    """
    try:
        return [_outline(row, image) for row in rows]
    except ValueError as error:
        raise LampQError(f"{error}; mend or remove it") from error


def drawn_outline(outline: Any, image: ListedImage) -> dict[str, Any] | None:
    """COCO's ``segmentation`` in compressed run lengths of the image's size; None where it encloses nothing: none at
    all, or polygons of less than three corners.

    Raises:
        ValueError: it cannot be drawn. pycocotools itself would measure run lengths of a wrong size without end.
    """
    from pycocotools import mask as rle

    if outline is None or (isinstance(outline, list) and not _polygons(outline)):
        return None
    height, width = image.height, image.width
    try:
        if isinstance(outline, list):
            polygons = _polygons(outline)
            # A corner far outside would be drawn pixel by pixel; one that is no number, anywhere.
            if not all(np.abs(polygon).max() <= FAR_OUTSIDE * (height + width) for polygon in polygons):
                raise ValueError("a corner is far outside the image, or no number")
            return rle.merge(rle.frPyObjects(polygons, height, width))
        if list(outline["size"]) != [height, width]:
            raise ValueError(f"it is of {outline['size']} pixels in an image of {[height, width]}")
        if isinstance(outline["counts"], list):
            if sum(outline["counts"]) != height * width:
                raise ValueError(f"its runs cover {sum(outline['counts'])} of {height * width} pixels")
            outline = rle.frPyObjects(outline, height, width)
        return rle.encode(rle.decode(outline))
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"outline cannot be drawn ({reason})") from error


def _polygons(outline: list) -> list:
    """The polygons of an outline that have three corners at least."""
    return [polygon for polygon in outline if len(polygon) >= 6 and len(polygon) % 2 == 0]


def _usable(row: dict[str, Any], image: ListedImage) -> bool:
    x, y, width, height = row["bbox"]
    inside = min(x + width, image.width) > max(x, 0) and min(y + height, image.height) > max(y, 0)
    outline = row.get("segmentation")
    drawable = bool(_polygons(outline) if isinstance(outline, list) else outline)
    dropped = row.get("iscrowd") or row.get("ignore")
    return not dropped and inside and row["area"] > 0 and width >= 1 and height >= 1 and drawable


def _image(row: dict[str, Any]) -> ListedImage:
    image = ListedImage(_whole(row, "id"), str(row["file_name"]), _whole(row, "height"), _whole(row, "width"))
    if image.height < 1 or image.width < 1:
        raise ValueError(f"image {image.id} has {image.height} x {image.width} pixels")
    return image


def _whole(row: dict[str, Any], key: str) -> int:
    """An integer of a row, also where it is written as a text or as 3.0."""
    value = row[key]
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or abs(value) >= 2**63:
        raise ValueError(f"{key} {value!r} is no whole number")
    return int(value)


def _by_id(what: str, listed: Iterable[Any]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for one in listed:
        if found.setdefault(one.id, one) is not one:
            raise ValueError(f"{what} {one.id} is listed twice")
    return found


def _numbered(rows: list[dict[str, Any]], images: dict, classes: dict) -> list[dict[str, Any]]:
    """Annotations of listed images and classes, what they refer to and their boxes as numbers."""
    kept = []
    for row in rows:
        numbers = {key: _whole(row, key) for key in ("image_id", "category_id")}
        if numbers["image_id"] not in images or numbers["category_id"] not in classes:
            continue
        if any(type(row[key]) is not int for key in numbers):
            row = {**row, **numbers}
        if len(row["bbox"]) != 4 or not all(map(math.isfinite, (*row["bbox"], row["area"]))):
            raise ValueError(f"annotation {row.get('id')} of image {row['image_id']} has a box or an area of no number")
        kept.append(row)
    return kept


def _object(number: int, row: dict[str, Any], image: ListedImage) -> dict[str, Any]:
    keys = ("image_id", "category_id", "bbox", "area")
    crowd = {"iscrowd": int(bool(row.get("iscrowd", 0)))}
    return {"id": number, **{key: row[key] for key in keys}, **crowd, "segmentation": _outline(row, image)}


def _outline(row: dict[str, Any], image: ListedImage) -> dict[str, Any] | None:
    try:
        return drawn_outline(row.get("segmentation"), image)
    except ValueError as error:
        raise ValueError(f"annotation {row.get('id')} of image {image.file_name}: its {error}") from error


def _say_what_is_left_out(path: Path, unlisted: int, objects: tuple[dict[str, Any], ...]) -> None:
    if unlisted:
        log.info("annotation file %s: %d annotations of images or categories that it does not list", path, unlisted)
    plain = sum(one["segmentation"] is None for one in objects)
    if plain and plain == len(objects):
        raise LampQError(
            f"annotation file {path}: none of its annotations has an outline, so the average precision of masks cannot "
            "be measured; give a file with outlines"
        )
    if plain:
        log.info("annotation file %s: %d annotations without an outline count for boxes, not for masks", path, plain)
