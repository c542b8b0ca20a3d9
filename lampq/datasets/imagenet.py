"""ImageNet (ILSVRC 2012) in the ordinary folder layout, whole or in part.

A class is known by the WordNet id of its folder, in the canonical ILSVRC-2012 order, never by the folder's position:
a partial copy has the same labels as the full one.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lampq.datasets.read_ahead import read_ahead
from lampq.errors import LampQError
from lampq.fingerprint import fingerprint
from lampq.limits import choice, integer, number, optional, shown, text
from lampq.models.adapter import ModelAdapter
from lampq.progress import progress

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


class ImageNet:
    """Training images for calibration and for the sample set D, validation images for the last number only.

    Both come from one seeded permutation of the sorted training images: calibration takes its first images, D is a
    longer prefix of it (the paper calibrates and scores on training images).

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
        self.workers = integer("dataset.workers", workers, minimum=1)
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

    def bind(self, adapter: ModelAdapter) -> None:
        """Take the preprocessing from the model's data configuration, where it is not overridden.

        Raises:
            LampQError: a model of other classes, or sizes that do not fit it.
        """
        from timm.data.transforms import str_to_interp_mode
        from torchvision import transforms

        heads = [site for site in adapter.sites if site.type == "head"]
        classes = adapter.module(heads[-1].name).out_features if heads else 0
        if classes != len(wordnet_classes()):
            raise LampQError(
                f"model.name={adapter.name}: it knows {classes} classes, not the {len(wordnet_classes())} of ImageNet; "
                "choose a model trained on them, or another dataset"
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

    def calibration(self, seed: int) -> Tensor:
        """Calibration images ``[images, 3, height, width]``."""
        return self._load(self._training(seed)[0], "reading calibration images")[0]

    def training(self, seed: int, count: int) -> Tensor:
        """The first so many training images ``[images, 3, height, width]``, which begin with the calibration images
        (unless these are listed).

        Raises:
            LampQError: there are not so many.
        """
        return self._load(self._first(seed, count), "reading training images")[0]

    def training_listing(self, seed: int, count: int) -> list[str]:
        """Paths of these images, relative to the root."""
        return [str(path.relative_to(self.root)) for path in self._first(seed, count)]

    def training_identity(self, seed: int, count: int) -> dict:
        """What identifies these images: a hash of their list, and the preprocessing."""
        paths = self.training_listing(seed, count)
        return {"images": count, "list": fingerprint(paths), "preprocessing": self.preprocessing}

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
        return {name: [str(path.relative_to(self.root)) for path in paths] for name, paths in named.items()}

    def identity(self, seed: int) -> dict:
        """What identifies the three image sets: a hash of their lists, and the preprocessing."""
        return {
            name: {"images": len(paths), "list": fingerprint(paths), "preprocessing": self.preprocessing}
            for name, paths in self.listing(seed).items()
        }

    def notes(self) -> list[str]:
        """What a reader of a result should know about the images."""
        notes = []
        found = len(self._files("train"))
        wanted = {"sample set D has": self.sample_images}
        if self.calibration_list is None:
            wanted["calibration set has"] = self.calibration_images
        notes += [
            f"the {name} {found} images, all there are, instead of {n}" for name, n in wanted.items() if found < n
        ]
        found = len(self._files("val"))
        if self.validation_images is not None and found < self.validation_images:
            notes.append(f"{found} validation images are there, all are used, instead of {self.validation_images}")
        return notes

    def _first(self, seed: int, count: int) -> list[Path]:
        shuffled = self._shuffled(seed)
        if count > len(shuffled):
            raise LampQError(
                f"base_quantizer.images={count}: {self.root / 'train'} holds {len(shuffled)} images; give at most as "
                "many, or more images"
            )
        return shuffled[:count]

    def _shuffled(self, seed: int) -> list[Path]:
        files = self._files("train")
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
        return [files[i] for i in order]

    def _training(self, seed: int) -> tuple[list[Path], list[Path]]:
        shuffled = self._shuffled(seed)
        calibration = shuffled[: self.calibration_images]
        if self.calibration_list is not None:
            calibration = self._listed(Path(self.calibration_list).expanduser())
        return calibration, shuffled[: self.sample_images]

    def _listed(self, path: Path) -> list[Path]:
        if not path.is_file():
            raise LampQError(f"dataset.calibration_list={path}: no such file; give a text file of paths under train/")
        files = [self.root / "train" / line.strip() for line in path.read_text().splitlines() if line.strip()]
        missing = [file for file in files if not file.is_file()]
        if missing or not files:
            what = f"{missing[0]} is not there" if missing else "the list is empty"
            raise LampQError(f"dataset.calibration_list={path}: {what}; list paths relative to train/, one a line")
        return files

    def _files(self, split: str) -> list[Path]:
        if split not in self.__dict__.setdefault("_listed_files", {}):
            folder = self.root / split
            files = sorted(p for p in folder.glob("*/*") if p.suffix.lower() in IMAGE_SUFFIXES)
            if not files:
                raise LampQError(f"dataset.root={self.root}: no images under {split}/WNID/; give a folder of ImageNet")
            self._listed_files[split] = files
        files = self._listed_files[split]
        if split == "train" or self.validation_images is None or self.validation_images >= len(files):
            return files
        return [files[i * len(files) // self.validation_images] for i in range(self.validation_images)]

    def _load(self, files: list[Path], description: str | None = None) -> tuple[Tensor, Tensor]:
        labels = torch.tensor([self._label(path) for path in files])
        with ThreadPoolExecutor(self.workers) as pool:
            images = pool.map(self._image, files)
            if description is not None:
                images = progress(images, description=description, total=len(files), unit="images")
            return torch.stack(list(images)), labels

    def _image(self, path: Path) -> Tensor:
        from PIL import Image

        try:
            with Image.open(path) as image:
                return self._transform(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise LampQError(f"image {path} cannot be read ({error}); replace or remove it") from error

    def _label(self, path: Path) -> int:
        classes = wordnet_classes()
        wordnet_id = path.parent.name
        if wordnet_id not in classes:
            raise LampQError(
                f"dataset.root: folder {path.parent} is not a WordNet id of ILSVRC 2012; remove or rename it"
            )
        return classes[wordnet_id]


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
