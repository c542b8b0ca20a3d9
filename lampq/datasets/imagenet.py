"""ImageNet (ILSVRC 2012) in the ordinary folder layout, whole or in part.

A class is known by the WordNet id of its folder, in the canonical ILSVRC-2012 order, never by the folder's position:
a partial copy has the same labels as the full one.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lampq.datasets.decoding import decode, look
from lampq.datasets.disjoint import DRAWN, DisjointSets
from lampq.datasets.read_ahead import read_ahead
from lampq.errors import LampQError
from lampq.limits import choice, integer, number, optional, shown, text
from lampq.models.adapter import ModelAdapter
from lampq.progress import progress
from lampq.storage.digests import Digests
from lampq.storage.fingerprint import fingerprint

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")
SETS = ("calibration", "sample", "validation")
THREADS = 256
"""Threads that may decode at once, at most."""
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


class ImageNet:
    """Training images for calibration and for the sample set D, validation images for the last number only.

    Both come from one seeded permutation of the sorted training images, as do the images that block-wise methods train
    on; none is in two of the three sets, where there are enough (see `lampq.datasets.disjoint`). An image is known by
    its path and by what is in the file. How one is decoded is told in `lampq.datasets.decoding`.

    Args:
        root: folder with ``train/WNID/*`` and ``val/WNID/*``.
        calibration_images: images that the base quantizer is calibrated on.
        sample_images: S of the paper, size of D; with fewer training images, all of them.
        validation_images: how many validation images to evaluate on (spread evenly over the sorted list, so
            over the classes), None for all.
        batch_size: validation images in one forward pass.
        workers: threads that decode images.
        calibration_list: text file of paths relative to ``train/``: calibrate on exactly these images.
        resize, crop_size, interpolation, mean, std: preprocessing; None takes the model's own data configuration
            (resize in pixels of the short side, interpolation as timm names it).
    """

    name = "imagenet"
    splits = ("train", "val")
    full_validation_images = 50_000
    digests: Digests
    """Of files that were looked at; whoever knows a folder to keep them in puts others in their place."""

    def __init__(
        self,
        root: str,
        calibration_images: int = 32,
        sample_images: int = 1024,
        validation_images: int | None = None,
        batch_size: int = 50,
        workers: int = 2,
        calibration_list: str | None = None,
        resize: int | None = None,
        crop_size: int | None = None,
        interpolation: str | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        self.root = Path(text("dataset.root", root)).expanduser()
        self.calibration_images = integer("dataset.calibration_images", calibration_images, minimum=1)
        self.sample_images = integer("dataset.sample_images", sample_images, minimum=1)
        self.validation_images = optional(integer, "dataset.validation_images", validation_images, minimum=1)
        self.batch_size = integer("dataset.batch_size", batch_size, minimum=1)
        self.workers = integer("dataset.workers", workers, minimum=1, maximum=THREADS)
        self.calibration_list = optional(text, "dataset.calibration_list", calibration_list)
        self._overrides = {
            "resize": optional(integer, "dataset.resize", resize, minimum=1),
            "crop_size": optional(integer, "dataset.crop_size", crop_size, minimum=1),
            "interpolation": optional(choice, "dataset.interpolation", interpolation, INTERPOLATIONS),
            "mean": optional(_three_channels, "dataset.mean", mean, at_least=0, at_most=1),
            "std": optional(_three_channels, "dataset.std", std, above=0),
        }
        for split in self.splits:
            if not (self.root / split).is_dir():
                folders = " and ".join(f"{name}/" for name in self.splits)
                raise LampQError(f"dataset.root={root}: has no folder {split}/; give the folder that holds {folders}")
        self._transform = None
        self._listed_files: dict[str, list[Path]] = {}
        self._permutations: dict[int, list[Path]] = {}
        self.digests = Digests()

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
        crop = self._overrides["crop_size"] or adapter.input_size[-1]
        if crop != adapter.input_size[-1]:
            raise LampQError(
                f"dataset.crop_size={crop}: the model takes {adapter.input_size[-1]} pixels; leave it null"
            )
        resize = self._overrides["resize"] or int(crop / config.get("crop_pct", 0.875))
        if resize < crop:
            raise LampQError(f"dataset.resize={resize}: must be at least the crop of {crop} pixels")
        # A few models were trained on images squeezed into a square instead of cut to one.
        squash = config.get("crop_mode") == "squash"
        self.preprocessing = {
            "resize": [resize, resize] if squash else resize,
            "crop_size": crop,
            "interpolation": self._overrides["interpolation"] or config.get("interpolation", "bicubic"),
            "mean": list(self._overrides["mean"] or config["mean"]),
            "std": list(self._overrides["std"] or config["std"]),
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
        """Forget which files there are: they may have changed between two jobs."""
        self._listed_files.clear()
        self._permutations.clear()

    def calibration(self, seed: int) -> Tensor:
        """Calibration images ``[images, 3, height, width]``."""
        return self._load(self._training(seed)[0], "reading calibration images")[0]

    def training(self, seed: int, count: int) -> Tensor:
        """So many training images ``[images, 3, height, width]``, none of them of the calibration images or of D where
        there are enough.

        Raises:
            LampQError: there are not so many.
        """
        return self._load(self._trained_on(seed, count), "reading training images")[0]

    def training_listing(self, seed: int, count: int) -> list[str]:
        """Paths of these images, relative to the root."""
        return self._relative(self._trained_on(seed, count))

    def training_identity(self, seed: int, count: int) -> dict:
        """What identifies these images: a hash of their paths and contents, and the preprocessing."""
        return self._known_by(self.training_listing(seed, count))

    def sample(self, seed: int) -> tuple[Tensor, Tensor]:
        """The sample set D: images ``[images, 3, height, width]`` and dataset labels ``[images]``."""
        return self._load(self._training(seed)[1], "reading the sample set D")

    def validation(self, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Validation batches (images, labels) from image number `start` on, read one batch ahead."""
        files = self._files("val")[start:]
        batches = [files[i : i + self.batch_size] for i in range(0, len(files), self.batch_size)]
        return read_ahead(batches, self._load)

    @property
    def validation_count(self) -> int:
        return len(self._files("val"))

    def listing(self, seed: int) -> dict[str, list[str]]:
        """Paths of the images used, relative to the root."""
        calibration, sample = self._training(seed)
        named = {"calibration": calibration, "sample": sample, "validation": self._files("val")}
        return {name: self._relative(paths) for name, paths in named.items()}

    def identity(self, seed: int, sets: Iterable[str] = SETS) -> dict:
        """What identifies image sets: a hash of their paths and contents, the preprocessing, and how D was drawn.

        Args:
            sets: those that are wanted; the files of no other are looked at.

        Raises:
            LampQError: one of their files is no image that can be read.
        """
        listing = self.listing(seed)
        identity = {name: self._known_by(listing[name]) for name in sets}
        if "sample" in identity:
            identity["sample"]["drawn"] = DRAWN
        return identity

    def notes(self, seed: int = 0, training: int | None = None) -> list[str]:
        """What a reader of a result should know about the images.

        Args:
            training: images that a method trains on, where it does.
        """
        notes = []
        found = len(self._files("train"))
        wanted = {"sample set D has": self.sample_images}
        if self.calibration_list is None:
            wanted["calibration set has"] = self.calibration_images
        notes += [
            f"the {name} {found} images, all there are, instead of {n}" for name, n in wanted.items() if found < n
        ]
        notes += self._sets(seed).notes(training)
        found = len(self._files("val"))
        if self.validation_images is not None and found < self.validation_images:
            notes.append(f"{found} validation images are there, all are used, instead of {self.validation_images}")
        for split in self.splits:
            with_images = {path.parent.name for path in self._all_files(split)}
            empty = sorted(wordnet_classes().keys() & set(os.listdir(self.root / split)) - with_images)
            if empty:
                notes.append(f"{len(empty)} class folders of {split}/ hold no images, for example {empty[0]}")
        return notes

    def repeated(self) -> list[str]:
        """Lines on images that hold the same, of those whose files have been looked at."""
        return self.digests.repeated(self.root / "train", self.root / "val")

    def _known_by(self, names: list[str]) -> dict:
        digests = self.digests.of(self.root, names, look)
        content = fingerprint(list(zip(names, digests, strict=True)))
        return {"images": len(names), "content": content, "preprocessing": self.preprocessing}

    def _relative(self, paths: list[Path]) -> list[str]:
        return [path.relative_to(self.root).as_posix() for path in paths]

    def _trained_on(self, seed: int, count: int) -> list[Path]:
        shuffled = self._shuffled(seed)
        if count > len(shuffled):
            raise LampQError(
                f"base_quantizer.images={count}: {self.root / 'train'} holds {len(shuffled)} images; give at most as "
                "many, or more images"
            )
        return [shuffled[place] for place in self._sets(seed).training(count)]

    def _shuffled(self, seed: int) -> list[Path]:
        if seed not in self._permutations:
            files = self._all_files("train")
            order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
            self._permutations = {seed: [files[i] for i in order]}
        return self._permutations[seed]

    def _sets(self, seed: int) -> DisjointSets:
        shuffled = self._shuffled(seed)
        calibration: Iterable[int] = range(min(self.calibration_images, len(shuffled)))
        if self.calibration_list is not None:
            listed = set(self._listed())
            calibration = [place for place, path in enumerate(shuffled) if path in listed]
        return DisjointSets(len(shuffled), calibration, self.sample_images)

    def _training(self, seed: int) -> tuple[list[Path], list[Path]]:
        shuffled = self._shuffled(seed)
        calibration = shuffled[: self.calibration_images] if self.calibration_list is None else self._listed()
        return calibration, [shuffled[place] for place in self._sets(seed).sample]

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

    def _files(self, split: str) -> list[Path]:
        files = self._all_files(split)
        if split == "train" or self.validation_images is None or self.validation_images >= len(files):
            return files
        return [files[i * len(files) // self.validation_images] for i in range(self.validation_images)]

    def _load(self, files: list[Path], description: str | None = None) -> tuple[Tensor, Tensor]:
        labels = torch.tensor([self._class_of(path.parent) for path in files])
        with ThreadPoolExecutor(self.workers) as pool:
            images = pool.map(self._image, files)
            if description is not None:
                images = progress(images, description=description, total=len(files), unit="images")
            return torch.stack(list(images)), labels

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


def _three_channels(key: str, value: Any, **bounds: float) -> list[float]:
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise LampQError(
            f"{key}={shown(value)}: must be three numbers, one a colour channel, for example [0.5,0.5,0.5]"
        )
    return [number(key, channel, **bounds) for channel in value]


def wordnet_classes() -> dict[str, int]:
    """WordNet id -> class index in the canonical ILSVRC-2012 order."""
    if not _CLASSES:
        from timm.data import ImageNetInfo

        _CLASSES.update({name: index for index, name in enumerate(ImageNetInfo("imagenet-1k").label_names())})
    return _CLASSES


_CLASSES: dict[str, int] = {}
