"""What a data set gives, wherever its images come from: four sets of them, and what identifies each."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lampq.datasets.coco_annotations import Annotations
from lampq.models.adapter import ModelAdapter
from lampq.models.detection.pictures import Pictures, Targets
from lampq.parts import Part
from lampq.storage.digests import Digests
from lampq.storage.store import Store

SETS = ("calibration", "sample", "validation")
"""What every run has; block-wise methods have ``training`` besides."""


@dataclass(frozen=True)
class MadeBatch:
    """A batch of images that were made and not read, for those who want to see them.

    Attributes:
        number: of the batch.
        file: where its tensors are kept.
        colours: from 0 to 255, uint8 ``[images, height, width, 3]``.
        history: a row a step of the optimisation that made them: ``batch``, ``step`` and its losses.
    """

    number: int
    file: Path
    colours: np.ndarray
    history: list[dict[str, Any]]


class ImageSets(Part, ABC):
    """Calibration images, the sample set D, training images of block-wise methods, and validation images.

    The first three are drawn by the run's seed; no image is in two of them where there are enough. The same seed and
    settings give the same images everywhere.

    Attributes:
        name: as rows of results have it.
        task: what its targets are for: ``classification`` or ``detection``.
        full_validation_images: size of the whole validation set, on which published accuracies are measured.
        validation_count: validation images that are used.
        batch_size: validation images handed over at once.
        judged_by: what a search looks at on D where images are not right or wrong: ``loss``, or ``ap`` (each image's
            average precision, then the loss).
        image_bytes: of the largest prepared image, at most; None: they have the size that the model takes.
        categories: of a data set for detection, (COCO's id, name) of class 0, 1 and so on.
        annotations: of a data set for detection, what is to be found in the validation images.
    """

    group = "dataset"
    name: ClassVar[str]
    task: ClassVar[str] = "classification"
    full_validation_images: ClassVar[int]
    validation_count: ClassVar[int]
    batch_size = 1
    judged_by = "loss"
    image_bytes: ClassVar[int | None] = None
    categories: ClassVar[tuple[tuple[int, str], ...]] = ()
    annotations: ClassVar[Annotations | None] = None

    @abstractmethod
    def bind(self, adapter: ModelAdapter) -> None:
        """Take from the model what images depend on; called before anything else.

        Raises:
            LampQError: the data set does not fit the model.
        """

    @abstractmethod
    def calibration(self, seed: int) -> Pictures:
        """Images that the base quantizer is calibrated on, ``[images, channels, height, width]``."""

    @abstractmethod
    def sample(self, seed: int) -> tuple[Pictures, Targets]:
        """The sample set D: images, and the class of each ``[images]``, or what is to be found in each."""

    @abstractmethod
    def training(self, seed: int, count: int) -> Pictures:
        """So many images that a block-wise method trains on.

        Raises:
            LampQError: there are not so many.
        """

    @abstractmethod
    def validation(self, start: int = 0) -> Iterator[tuple[Pictures, Any]]:
        """Validation batches from image number `start` on: images, and their classes (of a detector, their ids)."""

    @abstractmethod
    def names(self, which: str, seed: int, count: int | None = None) -> list[str]:
        """Names of the images of a set: ``calibration``, ``sample``, ``validation``, or `count` of ``training``.

        Raises:
            LampQError: there are not so many.
        """

    @abstractmethod
    def identity(self, which: str, seed: int, count: int | None = None) -> dict:
        """What identifies a set of images now (JSON-able), by content; no other set's files are looked at.

        Raises:
            LampQError: there are not so many, or one of them cannot be read.
        """

    def listing(self, seed: int, training: int | None = None) -> dict[str, list[str]]:
        """Names of the images that a run uses, by set; with so many training images, where it uses these."""
        listing = {which: self.names(which, seed) for which in SETS}
        return listing if training is None else {**listing, "training": self.names("training", seed, training)}

    def notes(self, seed: int = 0, training: int | None = None) -> list[str]:
        """What a reader of a result should know about the images.

        Args:
            training: images that a method trains on, where it does.
        """
        return []

    def sample_trained_on(self, seed: int, training: int | None) -> int:
        """How many images of D are among those that a method trains on, and would judge plans by what they know.

        Args:
            training: how many training images; None: the method trains on the calibration images.
        """
        trained = self.names("calibration", seed) if training is None else self.names("training", seed, training)
        return len(set(trained) & set(self.names("sample", seed)))

    def look_again(self) -> None:
        """Forget which files there are, and what is in them: they may have changed between two jobs."""

    def keep_digests(self, digests: Digests) -> None:
        """Remember what was found in files by these, which know a folder for it."""

    def repeated(self) -> list[str]:
        """Lines on images that hold the same, of those whose files have been looked at."""
        return []

    def make(self, seed: int, store: Store, sample: bool, training: int | None) -> list[MadeBatch]:
        """Make the images that a run uses, of a data set that makes them and does not read them.

        Args:
            store: where they are kept.
            sample: whether D is used.
            training: training images that are used.
        """
        return []
