"""Images in files: which of them serve what, and what is in them."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch

from lampq.datasets.base import ImageSets
from lampq.datasets.decoding import look
from lampq.datasets.disjoint import DRAWN, DisjointSets
from lampq.datasets.read_ahead import read_ahead
from lampq.errors import LampQError
from lampq.models.detection.pictures import Pictures, Targets
from lampq.parts import setting
from lampq.storage.digests import Digests
from lampq.storage.fingerprint import fingerprint

Listed = TypeVar("Listed")
"""How a data set knows an image before it is read."""


class ImageFiles(ImageSets, Generic[Listed]):
    """Training images for calibration and for the sample set D, validation images for the last number only.

    Calibration images, D and the images that block-wise methods train on come from one seeded permutation of the
    training images; none is in two of these sets, where there are enough (see `lampq.datasets.disjoint`). An image is
    known by its path and by what is in the file.

    Args:
        root: folder of the data set.
        calibration_images: images that the base quantizer is calibrated on.
        sample_images: S of the paper, size of D; with fewer training images, all of them.
        validation_images: how many validation images to evaluate on (spread evenly over their list), None for all.
        batch_size: validation images in one forward pass.

    Attributes:
        folders: of training images and of validation images, relative to the root.
        drawn: how D was drawn, for the identity.
        apart: whether block-wise methods train on other images than the calibration images.
        calibration_list: text file that names the calibration images; None takes the permutation's first.
        preprocessing: how images are prepared (JSON-able).
        digests: of files that were looked at.
    """

    root: str = setting()
    calibration_images: int = setting(32, minimum=1)
    sample_images: int = setting(1024, minimum=1)
    validation_images: int | None = setting(None, minimum=1)
    batch_size: int = setting(50, minimum=1)

    folders: ClassVar[dict[str, str]] = {"train": "train", "val": "val"}
    drawn: ClassVar[str | None] = DRAWN
    apart = True
    calibration_list = None
    preprocessing: ClassVar[dict[str, Any]]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.root = Path(self.root).expanduser()
        self.digests = Digests()

    @abstractmethod
    def _shuffled(self, seed: int) -> list[Listed]:
        """All training images in the order of the seed's permutation."""

    @abstractmethod
    def _validated(self) -> list[Listed]:
        """The validation images that are used."""

    @abstractmethod
    def _paths(self, images: list[Listed], split: str) -> list[str]:
        """Paths of images of ``train`` or ``val``, relative to the root."""

    @abstractmethod
    def _read(self, images: list[Listed], split: str, description: str | None = None) -> Pictures:
        """Read and prepare images; what is being done is shown where it is described."""

    @abstractmethod
    def _targets(self, images: list[Listed]) -> Any:
        """What `validation` gives beside the images."""

    @abstractmethod
    def _held(self, images: int) -> str:
        """Says where so many training images are."""

    def calibration(self, seed: int) -> Pictures:
        return self._read(self._chosen("calibration", seed), "train", "reading calibration images")

    def training(self, seed: int, count: int) -> Pictures:
        return self._read(self._chosen("training", seed, count), "train", "reading training images")

    def sample(self, seed: int) -> tuple[Pictures, Targets]:
        chosen = self._chosen("sample", seed)
        return self._read(chosen, "train", "reading the sample set D"), self._targets(chosen)

    def validation(self, start: int = 0) -> Iterator[tuple[Pictures, Any]]:
        """Batches from image number `start` on, read one batch ahead."""
        images = self._validated()[start:]
        batches = [images[i : i + self.batch_size] for i in range(0, len(images), self.batch_size)]
        return read_ahead(batches, lambda batch: (self._read(batch, "val"), self._targets(batch)))

    @property
    def validation_count(self) -> int:
        return len(self._validated())

    def names(self, which: str, seed: int, count: int | None = None) -> list[str]:
        """Paths of the images of a set, relative to the root."""
        return self._paths(self._chosen(which, seed, count), "val" if which == "validation" else "train")

    def identity(self, which: str, seed: int, count: int | None = None) -> dict:
        """A hash of the images' paths and contents, the preprocessing, and how D was drawn."""
        known = self._known_by(self.names(which, seed, count), self._root_of(which))
        return {**known, "drawn": self.drawn} if which == "sample" and self.drawn else known

    def notes(self, seed: int = 0, training: int | None = None) -> list[str]:
        images = self._shuffled(seed)
        wanted = {"sample set D has": self.sample_images}
        if self.calibration_list is None and self._root_of("calibration") == self.root:
            wanted["calibration set has"] = self.calibration_images
        there = len(images)
        notes = [f"the {name} {there} images, all there are, instead of {n}" for name, n in wanted.items() if there < n]
        return notes + self._notes_on_sets(images, seed, training)

    def _notes_on_sets(self, images: list[Listed], seed: int, training: int | None) -> list[str]:
        """What a reader should know of where sets come from and what they share."""
        return self._sets(images).notes(training)

    def keep_digests(self, digests: Digests) -> None:
        self.digests = digests

    def repeated(self) -> list[str]:
        return self.digests.repeated(*(self.root / self.folders[split] for split in ("train", "val")))

    def _root_of(self, which: str) -> Path:
        """The folder that the names of a set's images are relative to."""
        return self.root

    def _known_by(self, names: list[str], root: Path) -> dict:
        digests = self.digests.of(root, names, look)
        content = fingerprint(list(zip(names, digests, strict=True)))
        return {"images": len(names), "content": content, "preprocessing": self.preprocessing}

    def _chosen(self, which: str, seed: int, count: int | None = None) -> list[Listed]:
        if which == "validation":
            return self._validated()
        images = self._shuffled(seed)
        if which == "calibration":
            return images[: self.calibration_images]
        if which == "training" and count > len(images):
            raise LampQError(
                f"base_quantizer.images={count}: {self._held(len(images))}; give at most as many, or more images"
            )
        sets = self._sets(images)
        return [images[place] for place in (sets.sample if which == "sample" else sets.training(count))]

    def _sets(self, images: list[Listed]) -> DisjointSets:
        return DisjointSets(len(images), self._calibration_places(images), self.sample_images, self.apart)

    def _calibration_places(self, images: list[Listed]) -> Iterable[int]:
        return range(min(self.calibration_images, len(images)))

    def _spread(self, images: list[Listed]) -> list[Listed]:
        """As many as are asked for, spread evenly over all."""
        count = min(self.validation_images or len(images), len(images))
        return [images[i * len(images) // count] for i in range(count)]


def permuted(images: list[Listed], seed: int) -> list[Listed]:
    """Images in the order of the seed's permutation."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    return [images[i] for i in order]
