"""ImageNet (ILSVRC 2012) in the ordinary folder layout, whole or in part.

A class is known by the WordNet id of its folder, in the canonical ILSVRC-2012 order, never by the folder's position:
a partial copy has the same labels as the full one.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lampq.datasets.decoding import decode
from lampq.datasets.disjoint import DisjointSets
from lampq.datasets.image_files import ImageFiles, permuted
from lampq.errors import LampQError
from lampq.limits import number, shown
from lampq.models.adapter import ModelAdapter
from lampq.parts import setting
from lampq.progress import progress

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")
THREADS = 256
"""Threads that may decode at once, at most."""
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


def _three_channels(key: str, value: Any, **bounds: float) -> list[float]:
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise LampQError(
            f"{key}={shown(value)}: must be three numbers, one a colour channel, for example [0.5,0.5,0.5]"
        )
    return [number(key, channel, **bounds) for channel in value]


class ImageNet(ImageFiles[Path]):
    """One or a part of it, known by the folders of its classes. How an image is decoded is told in
    `lampq.datasets.decoding`.

    Args:
        root: folder with ``train/WNID/*`` and ``val/WNID/*``.
        workers: threads that decode images.
        calibration_list: text file of paths relative to ``train/``: calibrate on exactly these images.
        calibration_root: folder of any other images, at any depth: calibrate, and train blocks, on images drawn from
            them by the seed. D and the validation images are what they are without it.
        resize, crop_size, interpolation, mean, std: preprocessing; None takes the model's own data configuration
            (resize in pixels of the short side, interpolation as timm names it).
    """

    name = "imagenet"
    full_validation_images = 50_000
    splits = ("train", "val")
    """Folders that have to be there."""

    workers: int = setting(2, minimum=1, maximum=THREADS)
    calibration_list: str | None = None
    calibration_root: str | None = None
    resize: int | None = setting(None, minimum=1)
    crop_size: int | None = setting(None, minimum=1)
    interpolation: str | None = setting(None, options=INTERPOLATIONS)
    mean: list[float] | None = setting(None, check=_three_channels, at_least=0, at_most=1)
    std: list[float] | None = setting(None, check=_three_channels, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for split in self.splits:
            if not (self.root / split).is_dir():
                folders = " and ".join(f"{name}/" for name in self.splits)
                raise LampQError(
                    f"dataset.root={self.root}: has no folder {split}/; give the folder that holds {folders}"
                )
        if self.calibration_root is not None:
            self.calibration_root = Path(self.calibration_root).expanduser()
            if self.calibration_list is not None:
                raise LampQError(
                    f"dataset.calibration_root={self.calibration_root}: dataset.calibration_list names calibration "
                    "images already; leave one of them out"
                )
            if not self.calibration_root.is_dir():
                raise LampQError(
                    f"dataset.calibration_root={self.calibration_root}: no such folder; give one that holds images"
                )
        self._transform = None
        self._listed_files: dict[str, list[Path]] = {}
        self._permutations: dict[int, list[Path]] = {}
        self._used_elsewhere: set[str] = set()

    def bind(self, adapter: ModelAdapter) -> None:
        """Take the preprocessing from the model's data configuration, where it is not overridden.

        Raises:
            LampQError: a model of other classes, sizes that do not fit it, or folders that are none of ImageNet's.
        """
        from timm.data.transforms import str_to_interp_mode
        from torchvision import transforms

        if adapter.classes != len(wordnet_classes()):
            raise LampQError(
                f"model.name={adapter.name}: it knows {adapter.classes} classes, not the {len(wordnet_classes())} of "
                "ImageNet; choose a model trained on them, or another dataset"
            )
        config = adapter.data_config
        crop = self.crop_size or adapter.input_size[-1]
        if crop != adapter.input_size[-1]:
            raise LampQError(
                f"dataset.crop_size={crop}: the model takes {adapter.input_size[-1]} pixels; leave it null"
            )
        resize = self.resize or int(crop / config.get("crop_pct", 0.875))
        if resize < crop:
            raise LampQError(f"dataset.resize={resize}: must be at least the crop of {crop} pixels")
        # A few models were trained on images squeezed into a square instead of cut to one.
        squash = config.get("crop_mode") == "squash"
        self.preprocessing = {
            "resize": [resize, resize] if squash else resize,
            "crop_size": crop,
            "interpolation": self.interpolation or config.get("interpolation", "bicubic"),
            "mean": list(self.mean or config["mean"]),
            "std": list(self.std or config["std"]),
        }
        self._transform = transforms.Compose(
            [
                transforms.Resize(
                    self.preprocessing["resize"], interpolation=str_to_interp_mode(self.preprocessing["interpolation"])
                ),
                transforms.CenterCrop(crop),
                transforms.ToTensor(),
                transforms.Normalize(self.preprocessing["mean"], self.preprocessing["std"]),
            ]
        )
        for split in self.splits:
            for folder in {path.parent for path in self._all_files(split)}:
                self._class_of(folder)

    def look_again(self) -> None:
        self._listed_files.clear()
        self._permutations.clear()

    def notes(self, seed: int = 0, training: int | None = None) -> list[str]:
        notes = super().notes(seed, training)
        found = len(self._all_files("val"))
        if self.validation_images is not None and found < self.validation_images:
            notes.append(f"{found} validation images are there, all are used, instead of {self.validation_images}")
        for split in self.splits:
            with_images = {path.parent.name for path in self._all_files(split)}
            empty = sorted(wordnet_classes().keys() & set(os.listdir(self.root / split)) - with_images)
            if empty:
                notes.append(f"{len(empty)} class folders of {split}/ hold no images, for example {empty[0]}")
        return notes

    def _notes_on_sets(self, images: list[Path], seed: int, training: int | None) -> list[str]:
        if self.calibration_root is None:
            return super()._notes_on_sets(images, seed, training)
        what = "calibration images are" if training is None else "calibration and training images are"
        there = len(self._others(seed))
        notes = [f"{what} drawn from the {there} images of {self.calibration_root}"]
        if there < self.calibration_images:
            notes.append(f"the calibration set has {there} images, all there are, instead of {self.calibration_images}")
        return notes

    def _chosen(self, which: str, seed: int, count: int | None = None) -> list[Path]:
        if which == "calibration" and self.calibration_list is not None:
            return self._listed()
        if self._elsewhere(which):
            return self._chosen_elsewhere(which, seed, count)
        return super()._chosen(which, seed, count)

    def _elsewhere(self, which: str) -> bool:
        """Whether a set's images come from `calibration_root`."""
        return self.calibration_root is not None and which in ("calibration", "training")

    def _chosen_elsewhere(self, which: str, seed: int, count: int | None) -> list[Path]:
        images = self._others(seed)
        if which == "calibration":
            return images[: self.calibration_images]
        if count > len(images):
            raise LampQError(
                f"base_quantizer.images={count}: {self.calibration_root} holds {len(images)} images; give at most as "
                "many, or more images"
            )
        # No image is D's; those of calibration are taken last.
        sets = DisjointSets(len(images), range(min(self.calibration_images, len(images))), 0, self.apart)
        return [images[place] for place in sets.training(count)]

    def sample_trained_on(self, seed: int, training: int | None) -> int:
        if self.calibration_root is None:
            return super().sample_trained_on(seed, training)
        which = "calibration" if training is None else "training"
        trained = {path.resolve() for path in self._chosen(which, seed, training)}
        return sum(path.resolve() in trained for path in self._chosen("sample", seed))

    def names(self, which: str, seed: int, count: int | None = None) -> list[str]:
        """Paths of the images of a set, relative to the root; of those from `calibration_root` relative to this."""
        if not self._elsewhere(which):
            return super().names(which, seed, count)
        root = self.calibration_root
        return [path.relative_to(root).as_posix() for path in self._chosen(which, seed, count)]

    def identity(self, which: str, seed: int, count: int | None = None) -> dict:
        if self._elsewhere(which):
            self._used_elsewhere.update(self.names(which, seed, count))
        return super().identity(which, seed, count)

    def repeated(self) -> list[str]:
        others = self.digests.known(self.calibration_root, self._used_elsewhere) if self._used_elsewhere else set()
        validated = self.digests.known(self.root, self._paths(self._validated(), "val")) if others else set()
        if not (both := len(others & validated)):
            return super().repeated()
        return [
            *super().repeated(),
            f"{both} of the validation images hold the same as images of {self.calibration_root} that are used",
        ]

    def _root_of(self, which: str) -> Path:
        return self.calibration_root if self._elsewhere(which) else self.root

    def _calibration_places(self, images: list[Path]) -> Iterable[int]:
        if self.calibration_list is None:
            return super()._calibration_places(images)
        listed = set(self._listed())
        return [place for place, path in enumerate(images) if path in listed]

    def _held(self, images: int) -> str:
        return f"{self.root / 'train'} holds {images} images"

    def _paths(self, images: list[Path], split: str) -> list[str]:
        return [path.relative_to(self.root).as_posix() for path in images]

    def _targets(self, images: list[Path]) -> Tensor:
        return torch.tensor([self._class_of(path.parent) for path in images])

    def _validated(self) -> list[Path]:
        return self._spread(self._all_files("val"))

    def _shuffled(self, seed: int) -> list[Path]:
        if seed not in self._permutations:
            self._permutations = {seed: permuted(self._all_files("train"), seed)}
        return self._permutations[seed]

    def _others(self, seed: int) -> list[Path]:
        """All images under `calibration_root` in the order of the seed's permutation."""
        if "elsewhere" not in self._listed_files:
            files = sorted(p for p in self.calibration_root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
            if not files:
                raise LampQError(
                    f"dataset.calibration_root={self.calibration_root}: no images ({', '.join(IMAGE_SUFFIXES)}) are "
                    "in it; give a folder that holds some"
                )
            self._listed_files["elsewhere"] = files
        return permuted(self._listed_files["elsewhere"], seed)

    def _listed(self) -> list[Path]:
        path = Path(self.calibration_list).expanduser()
        if not path.is_file():
            raise LampQError(f"dataset.calibration_list={path}: no such file; give a text file of paths under train/")
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        outside = [line for line in lines if Path(line).is_absolute() or ".." in Path(line).parts]
        files = [self.root / "train" / line for line in lines]
        missing = [file for file in files if not file.is_file()]
        if outside or missing or not files:
            what = f"{outside[0]} is not under train/" if outside else "the list is empty"
            what = f"{missing[0]} is not there" if missing and not outside else what
            raise LampQError(f"dataset.calibration_list={path}: {what}; list paths relative to train/, one a line")
        return files

    def _all_files(self, split: str) -> list[Path]:
        if split not in self._listed_files:
            folder = self.root / split
            files = sorted(p for p in folder.glob("*/*") if p.suffix.lower() in IMAGE_SUFFIXES)
            if not files:
                raise LampQError(f"dataset.root={self.root}: no images under {split}/WNID/; give a folder of ImageNet")
            self._listed_files[split] = files
        return self._listed_files[split]

    def _read(self, images: list[Path], split: str, description: str | None = None) -> Tensor:
        with ThreadPoolExecutor(self.workers) as pool:
            tensors = pool.map(self._image, images)
            if description is not None:
                tensors = progress(tensors, description=description, total=len(images), unit="images")
            return torch.stack(list(tensors))

    def _image(self, path: Path) -> Tensor:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise LampQError(f"image {path} cannot be read ({error.strerror}); replace or remove it") from error
        self.digests.check(path, content)
        return self._transform(decode(path, content))

    def _class_of(self, folder: Path) -> int:
        classes = wordnet_classes()
        if folder.name not in classes:
            raise LampQError(f"dataset.root: folder {folder} is not a WordNet id of ILSVRC 2012; remove or rename it")
        return classes[folder.name]


def wordnet_classes() -> dict[str, int]:
    """WordNet id -> class index in the canonical ILSVRC-2012 order."""
    if not _CLASSES:
        from timm.data import ImageNetInfo

        _CLASSES.update({name: index for index, name in enumerate(ImageNetInfo("imagenet-1k").label_names())})
    return _CLASSES


_CLASSES: dict[str, int] = {}
