"""Images that a caller has in memory: tensors, or what a DataLoader of his gives."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from lampq.datasets.base import ImageSets
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.storage.fingerprint import fingerprint
from lampq.storage.store import tensors_hash

BATCH = 50
"""Images handed over at once for the last number."""


class GivenImages(ImageSets):
    """Calibration images and the sample set D as tensors; no validation images, which `evaluate` gets by itself.

    Args:
        calibration: ``[images, channels, height, width]``, prepared as the model takes them, or batches of these
            (a DataLoader; of pairs the first is taken).
        sample: the sample set D: images and classes ``[images]``, or batches of such pairs. None where nothing
            searches.

    Raises:
        LampQError: something else is given.
    """

    name = "given"
    full_validation_images = 0
    validation_count = 0

    def __init__(self, calibration: Any, sample: Any = None) -> None:
        self._calibration = images_in("calibration", calibration)
        self._sample = None if sample is None else pairs_in("sample", sample)

    def bind(self, adapter: ModelAdapter) -> None:
        """Check that the model takes these images and knows these classes."""
        check_images("calibration", self._calibration, adapter)
        if self._sample is not None:
            check_images("sample", self._sample[0], adapter)
            check_labels("sample", self._sample[1], adapter)

    def calibration(self, seed: int) -> Tensor:
        return self._calibration

    def training(self, seed: int, count: int) -> Tensor:
        """The first so many of those that the model is calibrated on."""
        given = len(self._calibration)
        if count > given:
            raise LampQError(
                f"base_quantizer.images={count}: calibration holds {given} images; give as many there, or lower it by "
                f"overrides=['base_quantizer.images={given}']"
            )
        return self._calibration[:count]

    def sample(self, seed: int) -> tuple[Tensor, Tensor]:
        """The sample set D.

        Raises:
            LampQError: none was given.
        """
        if self._sample is None:
            raise LampQError("sample=None: this allocator scores plans; give sample=(images, classes)")
        return self._sample

    def validation(self, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Nothing: see `lampq.quantization.QuantizedNetwork.evaluate`."""
        return iter(())

    def names(self, which: str, seed: int, count: int | None = None) -> list[str]:
        """Their numbers."""
        sets = {"calibration": self._calibration, "sample": () if self._sample is None else self._sample[0]}
        return [str(i) for i in range(count or len(sets.get(which, ())))]

    def sample_trained_on(self, seed: int, training: int | None) -> int:
        """Their numbers say nothing: images are compared."""
        trained = {tensors_hash({"image": image}) for image in self._calibration[:training]}
        sample = () if self._sample is None else self._sample[0]
        return sum(tensors_hash({"image": image}) in trained for image in sample)

    def identity(self, which: str, seed: int, count: int | None = None) -> dict:
        """A hash of all values."""
        tensors = {"calibration": {"images": self._calibration}, "sample": {}, "validation": {}}
        if self._sample is not None:
            tensors["sample"] = dict(zip(("images", "classes"), self._sample, strict=True))
        if which == "training":
            tensors["training"] = {"images": self.training(seed, count)}
        return _known_by(tensors[which])


def images_in(name: str, given: Any) -> Tensor:
    """All images of a tensor or of batches, float32 ``[images, channels, height, width]``.

    Args:
        name: of the argument, for the message.

    Raises:
        LampQError: neither, or no image.
    """
    if isinstance(given, Tensor):
        images = given
    elif isinstance(given, Iterable) and not isinstance(given, str | bytes | dict):
        batches = [batch[0] if isinstance(batch, list | tuple) else batch for batch in given]
        if not batches or not all(isinstance(batch, Tensor) for batch in batches):
            raise LampQError(f"{name}: holds no batches of images; give a tensor [images, channels, height, width]")
        images = batches[0].unsqueeze(0) if batches[0].dim() == 3 else batches[0]
        if len(batches) > 1:
            if len({batch.shape[1:] for batch in batches}) > 1 and batches[0].dim() == 4:
                raise LampQError(f"{name}: its images differ in size; give all in the size that the model takes")
            images = torch.cat(batches) if batches[0].dim() == 4 else torch.stack(batches)
    else:
        raise LampQError(
            f"{name}={type(given).__name__}: must be a tensor [images, channels, height, width] or a DataLoader of such"
        )
    if images.dim() != 4 or not len(images):
        raise LampQError(f"{name}: has shape {list(images.shape)}; give [images, channels, height, width]")
    if not images.is_floating_point():
        raise LampQError(f"{name}: holds {images.dtype}; give images as the model takes them, normalised, in float32")
    images = images.detach().float()
    if not images.isfinite().all():
        raise LampQError(f"{name}: holds values that are no finite numbers; give images without them")
    return images


def pairs_in(name: str, given: Any) -> tuple[Tensor, Tensor]:
    """All images and classes of a pair of tensors, or of batches of such pairs.

    Raises:
        LampQError: neither, or not as many classes as images.
    """
    if isinstance(given, tuple | list) and len(given) == 2 and all(isinstance(part, Tensor) for part in given):
        images, labels = given
    elif isinstance(given, Iterable) and not isinstance(given, Tensor | str | bytes | dict):
        batches = list(given)
        good = batches and all(
            isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)
            for batch in batches
        )
        if not good:
            raise LampQError(f"{name}: holds no pairs; give (images, classes), or a DataLoader of such pairs")
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    else:
        raise LampQError(f"{name}={type(given).__name__}: must be (images, classes), or a DataLoader of such pairs")
    images = images_in(name, images)
    if labels.shape != (len(images),) or labels.is_floating_point() or labels.is_complex():
        raise LampQError(
            f"{name}: classes have shape {list(labels.shape)} and type {labels.dtype}; give one whole number for each "
            f"of the {len(images)} images"
        )
    return images, labels.detach().long()


def check_images(name: str, images: Tensor, adapter: ModelAdapter) -> None:
    """Raises LampQError where a model does not take images of this size."""
    if tuple(images.shape[1:]) != adapter.input_size:
        raise LampQError(
            f"{name}: images of {list(images.shape[1:])} are given, the network takes {list(adapter.input_size)} "
            "(channels, height, width); resize them"
        )


def check_labels(name: str, labels: Tensor, adapter: ModelAdapter) -> None:
    """Raises LampQError where a model does not know a class."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= adapter.classes:
        raise LampQError(
            f"{name}: has class {low if low < 0 else high}, the network knows 0 to {adapter.classes - 1}; give its own "
            "numbering"
        )


def _known_by(tensors: dict[str, Tensor]) -> dict:
    count = len(next(iter(tensors.values()))) if tensors else 0
    return {"images": count, "content": fingerprint(tensors_hash({k: t.cpu() for k, t in tensors.items()}))}
