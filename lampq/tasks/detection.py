"""Object detection with masks: the loss on D while plans are searched, average precision in the end."""

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lampq.detection.images import Detections, Images, ImageState, Instances
from lampq.models.adapter import ModelAdapter
from lampq.progress import progress
from lampq.tasks.task import Task

if TYPE_CHECKING:
    from lampq.record import RunRecord

SHOWN = {"": "", "50": "_50", "75": "_75", "_small": "_s", "_medium": "_m", "_large": "_l"}
"""Endings of our metrics' names, and of those of mmdet's `CocoMetric`."""

PICTURES = 4
"""Validation images whose detections are drawn."""


class DetectionTask(Task):
    """mmdet's loss on single images, and COCO's average precision of boxes and masks.

    An image is not right or wrong, and the average precision of some dozen images is mostly noise. So what a search
    looks at is the loss: that of region proposals, classes, boxes and masks together. Where the data set says
    ``judged_by=ap``, it looks at each image's own average precision of boxes first, in the place of right or wrong.
    """

    name = "detection"
    judged = "ap"
    accuracies = ("box_ap", "mask_ap")

    def __init__(self, adapter: ModelAdapter, dataset: Any, seed: int, device: torch.device) -> None:
        super().__init__(adapter, dataset, seed, device)
        self.by_precision = getattr(dataset, "judged_by", "loss") == "ap"
        if self.by_precision:
            self.identity["sample"] = {**self.identity["sample"], "judged_by": "ap"}

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
        bar = progress(description=f"evaluating images {start + 1} to {stop}", total=stop - start, unit="images")
        for images, numbers in self.dataset.validation(start):
            images, numbers = images[: stop - start - len(ids)], numbers[: stop - start - len(ids)]
            found += adapter.run(images.to(self.device))
            shapes += [image.meta["ori_shape"] for image in images]
            ids += numbers
            bar.update(len(images))
            if len(ids) >= stop - start:
                break
        bar.close()
        return {**packed(found), "ids": torch.tensor(ids), "shapes": torch.tensor(shapes)}

    def metrics(self, quantized: dict[str, Tensor], full_precision: dict[str, Tensor]) -> dict[str, float]:
        """Average precision in percent: of boxes and masks, at overlaps of 50 to 95 %, of 50 and of 75 %, and of small,
        medium and large objects."""
        own, full = self.average_precision(quantized), self.average_precision(full_precision)
        compared = {f"{name}_full_precision": full[name] for name in self.accuracies}
        compared |= {f"{name}_difference": own[name] - full[name] for name in self.accuracies}
        return {**own, **compared, "images": len(quantized["ids"])}

    def average_precision(self, results: dict[str, Tensor]) -> dict[str, float]:
        """By mmdet's `CocoMetric`, in percent; 0 where nothing is found."""
        from lampq.detection.mmdet_import import import_mmdet

        import_mmdet()
        from mmdet.evaluation import CocoMetric

        with _quietly():
            metric = CocoMetric(ann_file=str(self.dataset.annotation_file), metric=["bbox", "segm"])
        metric.dataset_meta = {"classes": tuple(name for _, name in self.dataset.categories)}
        # Those that were looked at: in all others, nothing would count as found.
        metric.img_ids = results["ids"].tolist()
        metric.cat_ids = [number for number, _ in self.dataset.categories]
        answers = []
        for number, detections in zip(metric.img_ids, unpacked(results), strict=True):
            answer = {"img_id": number, "bboxes": detections.boxes.numpy(), "scores": detections.scores.numpy()}
            answer |= {"labels": detections.labels.numpy(), "masks": detections.masks}
            answers.append(({}, answer))
        with _quietly():
            measured = metric.compute_metrics(answers) if len(results["scores"]) else {}
        return {
            f"{ours}_ap{ending}": 100 * max(measured.get(f"{theirs}_mAP{suffix}", 0.0), 0.0)
            for ours, theirs in (("box", "bbox"), ("mask", "segm"))
            for ending, suffix in SHOWN.items()
        }

    def write_outcomes(
        self, record: "RunRecord", quantized: dict[str, Tensor], full_precision: dict[str, Tensor]
    ) -> None:
        """Draw what both models find in the first validation images, side by side: detections.png."""
        from lampq.report.detections import draw_detections

        images: list = []
        for batch, _ in self.dataset.validation():
            images += batch
            if len(images) >= PICTURES:
                break
        names = [name for _, name in self.dataset.categories]
        both = [unpacked(results)[:PICTURES] for results in (full_precision, quantized)]
        draw_detections(images[:PICTURES], *both, names, record.folder / "detections.png")

    def published(self, adapter: ModelAdapter) -> dict[str, float]:
        published = adapter.published_ap
        return {} if published is None else dict(zip(self.accuracies, published, strict=True))


def image_precision(image: ImageState, target: Instances, found: Detections) -> float:
    """COCO's average precision of boxes in one image by itself, from 0 to 1, averaged over the classes in it.

    It is no part of a data set's: there, detections of all images stand in one order by their scores.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    scale = torch.tensor([*image.meta["scale_factor"]] * 2)
    truth, classes = COCO(), sorted(set(target.labels.tolist()))
    boxes = _with_sizes(target.boxes.cpu() / scale)
    with _quietly():
        rows = enumerate(zip(boxes, target.labels.tolist(), strict=True), 1)
        truth.dataset = {
            "images": [{"id": 1}],
            "categories": [{"id": label} for label in classes],
            "annotations": [
                {"id": i, "image_id": 1, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                for i, (box, label) in rows
            ],
        }
        truth.createIndex()
        found_rows = zip(_with_sizes(found.boxes.cpu()), found.labels.tolist(), found.scores.tolist(), strict=True)
        answers = [
            {"image_id": 1, "category_id": label, "bbox": box, "score": score}
            for box, label, score in found_rows
            if label in classes
        ]
        if not answers or not classes:
            return 0.0 if classes else 1.0
        evaluation = COCOeval(truth, truth.loadRes(answers), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # [overlaps, recalls, classes, areas, most detections]: of every size, of all detections.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


def _with_sizes(boxes: Tensor) -> list[list[float]]:
    """Left, top, width and height, as COCO has them."""
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what pycocotools prints and the tables that mmdet logs."""
    level = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)


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
