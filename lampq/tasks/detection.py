"""Object detection with masks: the loss on D while plans are searched, average precision in the end."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lampq.datasets.base import ImageSets
from lampq.models.adapter import ModelAdapter
from lampq.models.detection.pictures import Detections, Images, ImageState, Instances, SideBySide
from lampq.storage.store import tensors_hash
from lampq.tasks.average_precision import (
    SHOWN,
    class_matches,
    draw_images,
    match,
    precisions,
    quietly,
    resampled,
    truth,
)
from lampq.tasks.task import Task

KINDS = {"box_ap": "bbox", "mask_ap": "segm"}
"""What is compared with what is to be found, by the accuracy's name: COCO's word."""

PICTURES = 4
"""Validation images whose detections are shown."""


@dataclass(frozen=True)
class AveragePrecision:
    """What one model reaches on the validation images.

    Attributes:
        shown: percent, by the metric's name: ``box_ap``, ``box_ap50`` ... ``mask_ap_large``.
        resampled: ``box_ap`` and ``mask_ap`` of every draw of images, ``[draws]``.
    """

    shown: dict[str, float]
    resampled: dict[str, np.ndarray]


class DetectionTask(Task):
    """mmdet's loss on single images, and COCO's average precision of boxes and masks.

    An image is not right or wrong, and the average precision of some dozen images is mostly noise. So what a search
    looks at is the loss: that of region proposals, classes, boxes and masks together. Where the data set says
    ``judged_by=ap``, it looks at each image's own average precision of boxes first, in the place of right or wrong.
    """

    name = "detection"
    judged = "ap"
    accuracies = ("box_ap", "mask_ap")
    outcomes_file = "precision_draws.csv"

    def __init__(self, adapter: ModelAdapter, dataset: ImageSets, seed: int, device: torch.device) -> None:
        super().__init__(adapter, dataset, seed, device)
        self._measured: dict[str, AveragePrecision] = {}
        self.by_precision = dataset.judged_by == "ap"

    def identify(self, name: str) -> dict:
        judged = {"judged_by": "ap"} if name == "sample" and self.by_precision else {}
        return {**super().identify(name), **judged}

    def losses(self, adapter: ModelAdapter, images: Images, targets: list[Instances], start: int = 0) -> Tensor:
        """mmdet's training loss of every image by itself, ``[images]``."""
        device = images.device
        targets = [Instances(t.boxes.to(device), t.labels.to(device), t.masks) for t in targets]
        return adapter.losses(images, targets, start)

    def judge(self, adapter: ModelAdapter, state: Images, targets: list[Instances]) -> dict[str, Tensor]:
        judged = {"loss": self.losses(adapter, state, targets, adapter.segments - 1).double()}
        if self.by_precision:
            found = adapter.run(state, adapter.segments - 1)
            rows = zip(state, targets, found, strict=True)
            judged["top1"] = torch.tensor([image_precision(*row) for row in rows], dtype=torch.float64)
        return judged

    @torch.inference_mode()
    def measure(self, adapter: ModelAdapter, start: int, stop: int) -> dict[str, Tensor]:
        """What is found in validation images, packed.

        Returns:
            ``ids`` and ``counts`` ``[images]``, ``shapes`` (height, width) ``[images, 2]``; ``boxes``
            ``[detections, 4]``, ``scores``, ``labels`` and ``mask_sizes`` (bytes of run lengths) ``[detections]``;
            ``mask_codes`` ``[bytes]``.
        """
        ids: list[int] = []
        found: list[Detections] = []
        shapes: list[tuple[int, int]] = []
        for images, numbers in self.validation(start, stop):
            found += adapter.run(images)
            shapes += [image.meta["ori_shape"] for image in images]
            ids += numbers
        return {**packed(found), "ids": torch.tensor(ids), "shapes": torch.tensor(shapes)}

    def metrics(self, quantized: dict[str, Tensor], full_precision: dict[str, Tensor]) -> dict[str, float]:
        """Average precision in percent (`precisions`) of boxes and masks, its standard error by resampling images, and
        the same of the difference to full precision, paired by draw."""
        own, full = self.average_precision(quantized), self.average_precision(full_precision)
        metrics = dict(own.shown)
        for name in self.accuracies:
            before, after = full.resampled[name], own.resampled[name]
            metrics[f"{name}_standard_error"] = float(after.std(ddof=1))
            metrics[f"{name}_full_precision"] = full.shown[name]
            metrics[f"{name}_full_precision_standard_error"] = float(before.std(ddof=1))
            metrics[f"{name}_difference"] = own.shown[name] - full.shown[name]
            metrics[f"{name}_difference_standard_error"] = float((after - before).std(ddof=1))
        return {**metrics, "images": len(quantized["ids"])}

    def average_precision(self, results: dict[str, Tensor]) -> AveragePrecision:
        """COCO's, by pycocotools; 0 where nothing is found. What was measured before is not measured again."""
        key = tensors_hash(results)
        if key not in self._measured:
            self._measured[key] = self._average_precision(results)
        return self._measured[key]

    def _average_precision(self, results: dict[str, Tensor]) -> AveragePrecision:
        numbers, categories = results["ids"].tolist(), [number for number, _ in self.dataset.categories]
        answers = [
            {"image_id": number, "category_id": categories[label], "score": score, "bbox": box, "segmentation": mask}
            for number, found in zip(numbers, unpacked(results), strict=True)
            for label, score, box, mask in zip(
                found.labels.tolist(), found.scores.tolist(), _with_sizes(found.boxes), found.masks, strict=True
            )
        ]
        drawn, shown, again = draw_images(len(numbers)), {}, {}
        for name, kind in KINDS.items():
            if not answers:
                shown |= {f"{name}{ending}": 0.0 for ending in SHOWN}
                again[name] = np.zeros(len(drawn))
                continue
            evaluation = match(truth(self.dataset.annotations, kind), answers, numbers, categories, kind)
            shown |= {f"{name}{ending}": value for ending, value in precisions(evaluation).items()}
            again[name] = resampled(class_matches(evaluation), drawn)
        return AveragePrecision(shown, again)

    def outcomes(self, quantized: dict[str, Tensor], full_precision: dict[str, Tensor]) -> list[dict[str, Any]]:
        """A row a draw of validation images, the same draws for every model: average precisions in percent."""
        full, own = (self.average_precision(results).resampled for results in (full_precision, quantized))
        columns = {**{f"full_precision_{name}": values for name, values in full.items()}, **own}
        rows = zip(*columns.values(), strict=True)
        return [{name: f"{value:.4f}" for name, value in zip(columns, row, strict=True)} for row in rows]

    def side_by_side(self, quantized: dict[str, Tensor], full_precision: dict[str, Tensor]) -> SideBySide:
        """What both models find in the first validation images."""
        shown = min(PICTURES, self.dataset.validation_count)
        images = [image for batch, _ in self.validation(0, shown) for image in batch]
        both = [unpacked(results)[:shown] for results in (full_precision, quantized)]
        return SideBySide(images, *both, [name for _, name in self.dataset.categories])

    def published(self, adapter: ModelAdapter) -> dict[str, float]:
        published = adapter.published_ap
        return {} if published is None else dict(zip(self.accuracies, published, strict=True))


def image_precision(image: ImageState, target: Instances, found: Detections) -> float:
    """COCO's average precision of boxes in one image by itself, from 0 to 1, averaged over the classes in it.

    It is no part of a data set's: there, detections of all images stand in one order by their scores.
    """
    from pycocotools.coco import COCO

    scale = torch.tensor([*image.meta["scale_factor"]] * 2)
    one, classes = COCO(), sorted(set(target.labels.tolist()))
    boxes = _with_sizes(target.boxes.cpu() / scale)
    rows = enumerate(zip(boxes, target.labels.tolist(), strict=True), 1)
    one.dataset = {
        "images": [{"id": 1}],
        "categories": [{"id": label} for label in classes],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (box, label) in rows
        ],
    }
    with quietly():
        one.createIndex()
    found_rows = zip(_with_sizes(found.boxes.cpu()), found.labels.tolist(), found.scores.tolist(), strict=True)
    answers = [
        {"image_id": 1, "category_id": label, "bbox": box, "score": score}
        for box, label, score in found_rows
        if label in classes
    ]
    if not answers or not classes:
        return 0.0 if classes else 1.0
    return precisions(match(one, answers, [1], classes, "bbox"))[""] / 100


def _with_sizes(boxes: Tensor) -> list[list[float]]:
    """Left, top, width and height, as COCO has them."""
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()


def packed(found: list[Detections]) -> dict[str, Tensor]:
    """Detections of several images as tensors, so that they can be stored and joined."""
    codes = [mask["counts"] for detections in found for mask in detections.masks]
    return {
        "counts": torch.tensor([len(detections.scores) for detections in found]),
        "boxes": torch.cat([detections.boxes.float().cpu().view(-1, 4) for detections in found]),
        "scores": torch.cat([detections.scores.float().cpu() for detections in found]),
        "labels": torch.cat([detections.labels.cpu() for detections in found]),
        "mask_sizes": torch.tensor([len(code) for code in codes], dtype=torch.int64),
        "mask_codes": torch.frombuffer(bytearray(b"".join(codes) or b"\0"), dtype=torch.uint8)[: sum(map(len, codes))],
    }


def unpacked(results: dict[str, Tensor]) -> list[Detections]:
    """The detections again, image by image."""
    codes, sizes = results["mask_codes"].numpy().tobytes(), results["mask_sizes"].tolist()
    counts, masks, place = results["counts"].tolist(), [], 0
    for size in sizes:
        masks.append(codes[place : place + size])
        place += size
    found, first = [], 0
    for count, shape in zip(counts, results["shapes"].tolist(), strict=True):
        part = slice(first, first + count)
        rows = [{"size": shape, "counts": code} for code in masks[part]]
        found.append(Detections(results["boxes"][part], results["scores"][part], results["labels"][part], rows))
        first += count
    return found
