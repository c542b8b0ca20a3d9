"""A made-up data set of scenes for the small detectors, and everything that an allocator works with on it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lampq.datasets.base import ImageSets
from lampq.datasets.coco_annotations import Annotations, read_annotations
from lampq.models.adapter import ModelAdapter
from lampq.models.detection.pictures import Images, Instances
from lampq.storage.fingerprint import fingerprint
from lampq.storage.store import Store
from lampq.tasks.detection import DetectionTask
from lampq.workbench import Workbench
from tests.small_detectors import CLASSES, detector_images, instances_in
from tests.small_models import search_with


class MadeUpScenes(ImageSets):
    """Images of two sizes and instances in them; validation annotations are written in COCO's layout.

    Args:
        folder: of the annotations.
    """

    name = "made_up_scenes"
    task = "detection"
    full_validation_images = 5000
    categories = tuple((10 * number + 1, f"class {number}") for number in range(CLASSES))

    def __init__(self, folder: Path, calibration_images=2, sample_images=6, validation_images=4) -> None:
        self.annotation_file = folder / "instances.json"
        self.counts = {"calibration": calibration_images, "sample": sample_images, "validation": validation_images}

    def bind(self, adapter: ModelAdapter) -> None:
        self._write(self.validation_scenes())

    def calibration(self, seed: int) -> Images:
        return detector_images(self.counts["calibration"], seed=10 + seed)

    def training(self, seed: int, count: int) -> Images:
        return detector_images(count, seed=10 + seed)

    def sample(self, seed: int) -> tuple[Images, list[Instances]]:
        images = detector_images(self.counts["sample"], seed=20 + seed)
        return images, instances_in(images)

    def validation_scenes(self) -> tuple[Images, list[Instances]]:
        images = detector_images(self.counts["validation"], seed=99)
        return images, instances_in(images)

    @property
    def annotations(self) -> Annotations:
        return read_annotations(self.annotation_file, objects=True)

    def validation(self, start: int = 0) -> Iterator[tuple[Images, list[int]]]:
        for state in self.validation_scenes()[0][start:]:
            yield Images([state]), [state.meta["img_id"]]

    @property
    def validation_count(self) -> int:
        return self.counts["validation"]

    def names(self, which: str, seed: int, count: int | None = None) -> list[str]:
        return [f"{which}/{seed}/{i}" for i in range(self.counts.get(which, count))]

    def identity(self, which: str, seed: int, count: int | None = None) -> dict:
        names = self.names(which, seed, count)
        return {"images": len(names), "list": fingerprint(names)}

    def _write(self, scenes: tuple[Images, list[Instances]]) -> None:
        from pycocotools import mask as run_lengths

        images, annotations = [], []
        for state, target in zip(*scenes, strict=True):
            (height, width), scale = state.meta["ori_shape"], state.meta["scale_factor"]
            images.append({"id": state.meta["img_id"], "height": height, "width": width, "file_name": "none.png"})
            rows = np.minimum((np.arange(height) * scale[1]).astype(int), target.masks.shape[1] - 1)
            columns = np.minimum((np.arange(width) * scale[0]).astype(int), target.masks.shape[2] - 1)
            for label, mask in zip(target.labels.tolist(), target.masks.numpy(), strict=True):
                code = run_lengths.encode(np.asfortranarray(mask[rows][:, columns].astype(np.uint8)))
                box, area = run_lengths.toBbox(code).tolist(), float(run_lengths.area(code))
                code["counts"] = code["counts"].decode()
                one = {"id": len(annotations) + 1, "image_id": state.meta["img_id"], "iscrowd": 0, "area": area}
                annotations.append({**one, "category_id": 10 * label + 1, "bbox": box, "segmentation": code})
        categories = [{"id": number, "name": name} for number, name in self.categories]
        content = {"images": images, "annotations": annotations, "categories": categories}
        self.annotation_file.write_text(json.dumps(content))


def detection_search(adapter: ModelAdapter, folder: Path, *, seed: int = 0, base_quantizer=None, **counts) -> Workbench:
    """As `tests.small_models.search_over`, on made-up scenes."""
    task = DetectionTask(adapter, MadeUpScenes(folder, **counts), seed, torch.device("cpu"))
    return search_with(task, adapter, Store(folder / "store"), base_quantizer)
