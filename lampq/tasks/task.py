"""What a model is judged by, whatever it does: the sets of images, and what is measured on each."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lampq.datasets.base import ImageSets
from lampq.datasets.memory import check_memory, tensor_bytes
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.models.detection.pictures import Pictures, SideBySide, Targets
from lampq.progress import progress


class Task(ABC):
    """The images of a data set, and what is measured on them.

    Args:
        adapter: the full-precision model.
        dataset: where images come from (bound to the adapter here).
        seed: draws calibration images and the sample set D.
        device: where images are put.

    Raises:
        LampQError: the data set is for another task, or does not fit the model.

    Attributes:
        identity: what identifies each of the three image sets (JSON-able), by ``calibration``, ``sample`` and
            ``validation``; the files of a set are looked at when it is first asked for.
        name: ``classification`` or ``detection``.
        judged: what `judge` calls right, a share of 1: ``top1`` or ``ap``.
        accuracies: what a row is read for: names of metrics, in percent.
        outcomes_file: name of a run's file of single outcomes.
    """

    name: str
    judged: str
    accuracies: ClassVar[tuple[str, ...]]
    outcomes_file: str

    def __init__(self, adapter: ModelAdapter, dataset: ImageSets, seed: int, device: torch.device) -> None:
        if dataset.task != adapter.task:
            fitting = {"classification": "imagenet or shapes", "detection": "coco or shapes_coco"}[adapter.task]
            raise LampQError(
                f"dataset={dataset.name}: does not go with {adapter.name}, which does {adapter.task}; choose "
                f"dataset={fitting}, or another model"
            )
        dataset.bind(adapter)
        self.adapter = adapter
        self.dataset = dataset
        self._said: set[str] = set()
        self.seed = seed
        self.device = device
        self.identity: dict[str, dict] = _Lazily(self.identify)

    def identify(self, name: str) -> dict:
        """What identifies one of the image sets now (JSON-able)."""
        return self.dataset.identity(name, self.seed)

    def still_current(self) -> bool:
        """Whether the image sets that were asked for are still what they were; files are looked at again."""
        self.dataset.look_again()
        return all(self.identify(name) == known for name, known in self.identity.items())

    def check_memory(self, searches: bool, training_images: int | None, validates: bool) -> None:
        """Refuse more images than this machine's memory holds.

        Args:
            searches: whether D is used.
            training_images: how many training images are; None for the calibration images.
            validates: whether the validation images are used.

        Raises:
            LampQError: names the key that asks for too many.
        """
        listing = self.dataset.listing(self.seed)
        counts = {"dataset.calibration_images": len(listing["calibration"]), "base_quantizer.images": training_images}
        if searches:
            counts["dataset.sample_images"] = len(listing["sample"])
        if validates:  # one batch is read while the one before is worked on
            counts["dataset.batch_size"] = 2 * min(self.dataset.batch_size, len(listing["validation"]))
        check_memory({key: count or 0 for key, count in counts.items()}, self.image_bytes)

    @property
    def image_bytes(self) -> int:
        """Bytes of a prepared image, of the largest one where they differ."""
        own = self.dataset.image_bytes
        return tensor_bytes(self.adapter.input_size) if own is None else own

    def repeated(self) -> list[str]:
        """Lines on images that are there more than once, as far as their files have been looked at; each line once."""
        new = [line for line in self.dataset.repeated() if line not in self._said]
        self._said.update(new)
        return new

    @cached_property
    def calibration_images(self) -> Pictures:
        """``[images, channels, height, width]``"""
        return self.dataset.calibration(self.seed).to(self.device)

    def training_images(self, count: int | None) -> Pictures:
        """So many training images ``[images, channels, height, width]``; None: the calibration images."""
        if count is None:
            return self.calibration_images
        return self.dataset.training(self.seed, count).to(self.device)

    def listing(self, count: int | None) -> dict[str, list[str]]:
        """Names of the images used, by set; with `count` training images where these are used as well."""
        return self.dataset.listing(self.seed, count)

    def training_identity(self, count: int | None) -> dict:
        """What identifies these images (JSON-able).

        Raises:
            LampQError: there are not so many.
        """
        return self.identity["calibration"] if count is None else self.dataset.identity("training", self.seed, count)

    @property
    def sample_images(self) -> Pictures:
        """Images of D, ``[images, channels, height, width]``."""
        return self._sample[0]

    @property
    def sample_labels(self) -> Targets:
        """What the data set says of D: classes ``[images]``, or the instances of each image."""
        return self._sample[1]

    @cached_property
    def _sample(self) -> tuple[Pictures, Targets]:
        # Whoever comes first may be in inference mode; the Fisher traces need tensors that gradients accept.
        with torch.inference_mode(False):
            images, labels = self.dataset.sample(self.seed)
            return images.to(self.device), labels.to(self.device) if isinstance(labels, Tensor) else labels

    def validation(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[Pictures, Any]]:
        """Validation batches of images number `start` to `stop` - 1 (None: to the last one), on the device."""
        done, stop = start, self.dataset.validation_count if stop is None else stop
        description = f"evaluating images {start + 1} to {stop}"
        with progress(description=description, total=stop - start, unit="images") as bar:
            for images, targets in self.dataset.validation(start):
                images, targets = images[: stop - done], targets[: stop - done]
                yield images.to(self.device), targets.to(self.device) if isinstance(targets, Tensor) else targets
                bar.update(len(images))
                done += len(images)
                if done >= stop:
                    return

    @property
    def sample_count(self) -> int:
        """Images of D."""
        return len(self.dataset.names("sample", self.seed))

    def sample_trained_on(self, training_images: int | None) -> int:
        """How many images of D are among the training images.

        Args:
            training_images: how many these are; None for the calibration images.
        """
        return self.dataset.sample_trained_on(self.seed, training_images)

    def check_scored(self, images: int | None) -> None:
        """Refuse to score plans on more images than D has; None is all of them.

        Raises:
            LampQError: D has not so many.
        """
        if images is not None and images > self.sample_count:
            raise LampQError(
                f"evaluation_images={images}: D has {self.sample_count} images; give at most as many, or null for all"
            )

    def notes(self, training_images: int | None) -> list[str]:
        """What a reader of a result should know about the images.

        Args:
            training_images: how many training images are used; None for the calibration images.
        """
        return self.dataset.notes(self.seed, training_images)

    @abstractmethod
    def losses(self, adapter: ModelAdapter, images: Pictures, targets: Targets, start: int = 0) -> Tensor:
        """The loss of every image, ``[images]``, differentiable.

        Args:
            start: segment whose inputs `images` are.
        """

    @abstractmethod
    def judge(self, adapter: ModelAdapter, state: Pictures, targets: Targets) -> dict[str, Tensor]:
        """Per-image results of a model on images of D, ``[images]`` float64: ``loss`` and, where images are right or
        wrong or something between, ``top1``.

        Args:
            state: inputs of the tail.
        """

    @abstractmethod
    def measure(self, adapter: ModelAdapter, start: int, stop: int) -> dict[str, Tensor]:
        """Results of a model on validation images `start` to `stop` - 1, to be joined along their first axes."""

    @abstractmethod
    def metrics(self, quantized: dict[str, Tensor], full_precision: dict[str, Tensor]) -> dict[str, float]:
        """The numbers of a row, from the results of two models on the same validation images."""

    @abstractmethod
    def outcomes(self, quantized: dict[str, Tensor], full_precision: dict[str, Tensor]) -> list[dict[str, Any]]:
        """Rows of `outcomes_file`: results of two models on the same validation images, from which runs are compared
        in pairs."""

    def side_by_side(self, quantized: dict[str, Tensor], full_precision: dict[str, Tensor]) -> SideBySide | None:
        """What two models find in some validation images; None where an answer is no picture."""
        return None

    def published(self, adapter: ModelAdapter) -> dict[str, float]:
        """Published full-precision numbers of the model on the whole validation set, by metric."""
        return {}

    def only_classifiers(self, what: str) -> None:
        """Refuse an option that has no meaning for this task.

        Raises:
            LampQError: it is no classification.
        """
        if self.name != "classification":
            raise LampQError(f"{what}: is defined for classifiers, not for {self.name}; choose another")


class _Lazily(dict):
    """Values that are made when they are first asked for."""

    def __init__(self, make: Callable[[str], dict]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: str) -> dict:
        self[name] = self._make(name)
        return self[name]
