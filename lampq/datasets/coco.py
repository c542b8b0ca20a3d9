"""COCO (2017) on disk, whole or in part: images of their own sizes, and the instances that are to be found in them."""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lampq.datasets.coco_annotations import Annotations, ListedImage, drawn_outlines, instances_in, read_annotations
from lampq.datasets.decoding import decode, opened, sixteen_bits
from lampq.datasets.image_files import ImageFiles, permuted
from lampq.datasets.memory import tensor_bytes
from lampq.errors import LampQError
from lampq.limits import integer, shown
from lampq.models.adapter import ModelAdapter
from lampq.models.detection.pictures import Images, ImageState, Instances
from lampq.parts import setting
from lampq.progress import progress
from lampq.storage.fingerprint import fingerprint

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of red, green and blue, of pixels from 0 to 255, as in the configurations of mmdet."""
PADDED_TO = 32
"""Height and width are filled up with zeros to multiples of so many pixels."""


def _two_sides(key: str, value: Any) -> list[int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise LampQError(f"{key}={shown(value)}: must be the longest and the shortest side, for example [1333,800]")
    return sorted((integer(key, side, minimum=32) for side in value), reverse=True)


class Coco(ImageFiles[ListedImage]):
    """Images that have an instance, as mmdet trains on these only, and validation images.

    Pixels are those of mmdet's test pipeline: decoded by OpenCV (turned as the camera notes, unlike those of ImageNet),
    resized to fit `image_scale`, normalised, padded each by itself.

    Args:
        root: folder with ``train2017/*.jpg``, ``val2017/*.jpg`` and ``annotations/``.
        train_annotations, val_annotations: other annotation files, for a part of COCO; relative to the root. None for
            ``annotations/instances_train2017.json`` and ``annotations/instances_val2017.json``.
        image_scale: longest side and shortest side in pixels that a resized image may have, as large as possible
            within both; None leaves images as they are.
        judged_by: what a search looks at on D: ``loss``, or ``ap`` (each image's average precision, then the loss).
    """

    name = "coco"
    task = "detection"
    folders: ClassVar[dict[str, str]] = {"train": "train2017", "val": "val2017"}
    full_validation_images = 5000

    calibration_images: int = setting(1, minimum=1)
    sample_images: int = setting(64, minimum=1)
    batch_size: int = setting(1, minimum=1)
    train_annotations: str | None = None
    val_annotations: str | None = None
    image_scale: list[int] | None = setting((1333, 800), check=_two_sides)
    judged_by: Literal["loss", "ap"] = "loss"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.annotation_files = {
            split: self.root / (given or self._usual_file(split))
            for split, given in (("train", self.train_annotations), ("val", self.val_annotations))
        }
        self._training_of: tuple[int, list[ListedImage], dict[int, list[dict[str, Any]]]] | None = None
        self._annotations: dict[str, str] = {}
        self.check_layout()

    def check_layout(self) -> None:
        """Raises LampQError where a folder of images or an annotation file is missing."""
        for split, folder in self.folders.items():
            if not (self.root / folder).is_dir():
                raise LampQError(
                    f"dataset.root={self.root}: has no folder {folder}/; give the folder of COCO that holds "
                    f"{', '.join(f'{name}/' for name in self.folders.values())} and annotations/"
                )
            path = self.annotation_files[split]
            if not path.is_file():
                raise LampQError(
                    f"dataset.{split}_annotations={path}: no such file; give one in COCO's layout (instances_*.json)"
                )

    def bind(self, adapter: ModelAdapter) -> None:
        """Check that the detector knows these classes.

        Raises:
            LampQError: it does not.
        """
        if adapter.classes != len(self.categories):
            raise LampQError(
                f"dataset={self.name}: has {len(self.categories)} classes, and {adapter.name} knows {adapter.classes};"
                " choose a model trained on them, or another dataset"
            )

    @property
    def annotation_file(self) -> Path:
        """Annotations of the validation images, in COCO's layout."""
        return self.annotation_files["val"]

    @property
    def annotations(self) -> Annotations:
        """What the validation images' annotation file says, with the objects that average precision looks at."""
        return self._validation

    @property
    def categories(self) -> tuple[tuple[int, str], ...]:
        """(COCO's id, name) of class 0, 1 and so on."""
        return self._validation.categories

    def look_again(self) -> None:
        for split, known in list(self._annotations.items()):
            if self._digest(split) != known:
                self._training_of = None
                self.__dict__.pop("_validation", None)

    def sample(self, seed: int) -> tuple[Images, list[Instances]]:
        listed, rows = self._chosen("sample", seed), self._training(seed)[1]
        images = self._read(listed, "train", "reading the sample set D")
        targets = [
            instances_in(image, rows[image.id], self.categories, state.meta["img_shape"])
            for image, state in zip(listed, images, strict=True)
        ]
        return images, targets

    def identity(self, which: str, seed: int, count: int | None = None) -> dict:
        """As of all files, with a hash of what is to be found in D and in the validation images."""
        known = super().identity(which, seed, count)
        if which == "sample":
            rows = self._training(seed)[1]
            known["annotations"] = fingerprint([rows[image.id] for image in self._chosen(which, seed)])
        if which == "validation":
            found = [self._validation.instances.get(image.id, []) for image in self._validated()]
            known["annotations"] = fingerprint([self.categories, found])
            if others := self._judged_beside(found):
                known["others"] = fingerprint(others)
        return known

    @property
    def preprocessing(self) -> dict[str, Any]:
        return {"image_scale": self.image_scale, "mean": MEAN, "std": STD, "padded_to": PADDED_TO}

    @property
    def image_bytes(self) -> int:
        sides = self.image_scale
        if sides is None:
            sides = [max(image.height for image in self._validation.images)]
            sides += [max(image.width for image in self._validation.images)]
        return tensor_bytes((3, *(side + PADDED_TO for side in sides)))

    def _judged_beside(self, instances: list[list[dict[str, Any]]]) -> list[list]:
        """What average precision looks at in the validation images where that is more than their instances: crowds."""
        images = {image.id for image in self._validated()}
        objects = [one for one in self.annotations.objects if one["image_id"] in images]
        if len(objects) == sum(len(rows) for rows in instances):
            return []
        keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
        return [[*(one[key] for key in keys), _counts(one["segmentation"])] for one in objects]

    def _held(self, images: int) -> str:
        return f"{images} images with instances are in {self.annotation_files['train']}"

    def _shuffled(self, seed: int) -> list[ListedImage]:
        return self._training(seed)[0]

    def _targets(self, images: list[ListedImage]) -> list[int]:
        return [image.id for image in images]

    def _digest(self, split: str) -> str:
        path = self.annotation_files[split]
        return self.digests.of(path.parent, [path.name])[0] if path.is_file() else ""

    def _usual_file(self, split: str) -> str:
        return f"annotations/instances_{self.folders[split]}.json"

    @cached_property
    def _validation(self) -> Annotations:
        self._annotations["val"] = self._digest("val")
        return read_annotations(self.annotation_files["val"], objects=True)

    def _validated(self) -> list[ListedImage]:
        images, wanted = self._validation.images, self.validation_images
        if wanted is not None and wanted > len(images):
            raise LampQError(
                f"dataset.validation_images={wanted}: {self.annotation_files['val']} lists {len(images)} images; give "
                "at most as many, or null for all"
            )
        return self._spread(images)

    def _training(self, seed: int) -> tuple[list[ListedImage], dict[int, list[dict[str, Any]]]]:
        """Training images with instances, shuffled, and the instances of those of D."""
        if self._training_of is None or self._training_of[0] != seed:
            # COCO's file has 450 MB: what is not used of it is not kept.
            path = self.annotation_files["train"]
            self._annotations["train"] = self._digest("train")
            annotations = read_annotations(path)
            if annotations.categories != self.categories:
                raise LampQError(
                    f"dataset.train_annotations={path}: its categories are not those of {self.annotation_files['val']};"
                    " give two files of one data set"
                )
            images = [image for image in annotations.images if image.id in annotations.instances]
            if not images:
                raise LampQError(f"dataset.train_annotations={path}: no image has an instance; give another file")
            images = permuted(images, seed)
            sample = [images[place] for place in self._sets(images).sample]
            rows = {image.id: annotations.instances[image.id] for image in sample}
            for image in sample:
                drawn_outlines(image, rows[image.id])  # one that cannot be drawn is named before any work
            self._training_of = seed, images, rows
        return self._training_of[1:]

    def _paths(self, images: list[ListedImage], split: str) -> list[str]:
        for image in images:
            if not (self.root / self.folders[split] / image.file_name).is_file():
                raise LampQError(
                    f"image {self.root / self.folders[split] / image.file_name} is listed in "
                    f"{self.annotation_files[split]}, but not there; {self.remedy(split)}"
                )
        return [f"{self.folders[split]}/{image.file_name}" for image in images]

    def remedy(self, split: str) -> str:
        """What to do where an image is not there."""
        return f"copy it there, or give dataset.{split}_annotations of the images that are"

    def _read(self, images: list[ListedImage], split: str, description: str | None = None) -> Images:
        if description is not None:
            images = progress(images, description=description, unit="images", delay=2)
        return Images(self._state(image, self.root / self.folders[split] / image.file_name) for image in images)

    def _state(self, image: ListedImage, path: Path) -> ImageState:
        """One image, read and prepared."""
        import cv2

        pixels = self._decode(path)
        original = pixels.shape[:2]
        if original != (image.height, image.width):
            raise LampQError(
                f"image {path} has {original[0]} x {original[1]} pixels, its annotation {image.height} x {image.width};"
                " replace the one or the other"
            )
        if self.image_scale is not None:
            longest, shortest = self.image_scale
            factor = min(longest / max(original), shortest / min(original))
            # float() and + 0.5 as in mmcv: half a pixel more would move every box.
            size = [int(side * float(factor) + 0.5) for side in original]
            pixels = cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        height, width = pixels.shape[:2]
        x = normalize(torch.from_numpy(pixels[:, :, ::-1].transpose(2, 0, 1).copy()))
        x = nn.functional.pad(x, (0, -width % PADDED_TO, 0, -height % PADDED_TO))
        padded = tuple(x.shape[1:])
        meta = {
            "img_id": image.id,
            "ori_shape": original,
            "img_shape": (height, width),
            "pad_shape": padded,
            "batch_input_shape": padded,
            "scale_factor": (width / original[1], height / original[0]),
        }
        return ImageState(x, padded, meta)

    def _decode(self, path: Path) -> np.ndarray:
        """Pixels uint8 ``[height, width, 3]``, blue, green, red."""
        import cv2

        try:
            content = path.read_bytes()
        except OSError as error:
            raise LampQError(f"image {path} cannot be read ({error.strerror}); replace it") from error
        self.digests.check(path, content)
        with opened(path, content) as image:
            if sixteen_bits(path, image):  # OpenCV takes the higher byte of some formats, the lower one of others
                return np.asarray(decode(path, content))[:, :, ::-1]
            image.draft("RGB", (1, 1))
            image.load()  # OpenCV fills what is cut off with grey
            pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            raise LampQError(f"image {path} cannot be read (of no kind that OpenCV knows); replace it")
        return pixels


def normalize(pixels: Tensor) -> Tensor:
    """uint8 ``[3, height, width]``, red, green, blue, to float32 of about zero mean and unit deviation."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels.float() - mean) / std


def _counts(outline: dict[str, Any] | None) -> str | None:
    return None if outline is None else outline["counts"].decode()
