"""COCO's annotation files: which images there are, and the outlines of what is to be found in them."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lampq.detection.images import Instances
from lampq.errors import LampQError

log = logging.getLogger(__name__)

LARGE = 100e6
"""Bytes from which on reading a file takes several seconds."""


@dataclass(frozen=True)
class ListedImage:
    """An image as its annotation file lists it; height and width in pixels."""

    id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True)
class Annotations:
    """What an annotation file says.

    Attributes:
        images: sorted by their ids.
        categories: (COCO's id, name) of class 0, 1 and so on, sorted by the ids.
        instances: COCO's annotations of every image that has any, by the image's id. Crowds, and what mmdet leaves out
            as well (an empty outline or box, a box outside the image), are dropped.
    """

    images: tuple[ListedImage, ...]
    categories: tuple[tuple[int, str], ...]
    instances: dict[int, list[dict[str, Any]]]


def read_annotations(path: Path) -> Annotations:
    """Read an annotation file of COCO's layout (``images``, ``annotations``, ``categories``).

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
        listed = (
            ListedImage(int(row["id"]), str(row["file_name"]), int(row["height"]), int(row["width"]))
            for row in content["images"]
        )
        images = {image.id: image for image in listed}
        categories = tuple(sorted((int(row["id"]), str(row["name"])) for row in content["categories"]))
        classes = {number for number, _ in categories}
        instances: dict[int, list[dict[str, Any]]] = {}
        for row in content["annotations"]:
            image = images.get(row["image_id"])
            if image is not None and row["category_id"] in classes and _usable(row, image):
                instances.setdefault(image.id, []).append(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"a row has no {error}" if isinstance(error, KeyError) else str(error)
        raise LampQError(
            f"annotation file {path}: is not in COCO's layout ({what}); give an instances_*.json with images, "
            "annotations and categories"
        ) from error
    if not images or not categories:
        raise LampQError(f"annotation file {path}: lists no {'categories' if images else 'images'}; give another one")
    return Annotations(tuple(images[key] for key in sorted(images)), categories, instances)


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
    for mask, row in zip(masks, rows, strict=True):
        outline = row["segmentation"]
        try:
            if isinstance(outline, list):
                outline = rle.merge(rle.frPyObjects(_polygons(outline), image.height, image.width))
            elif isinstance(outline["counts"], list):
                outline = rle.frPyObjects(outline, image.height, image.width)
            drawn = cv2.resize(rle.decode(outline), (width, height), interpolation=cv2.INTER_NEAREST)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise LampQError(
                f"annotation {row.get('id')} of image {image.file_name}: its outline cannot be drawn ({reason}); mend "
                "or remove it"
            ) from error
        mask[:] = drawn > 0
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
