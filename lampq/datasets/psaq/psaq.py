"""Images that are made from the model itself, for quantization without data; and the controls to compare them with.

PSAQ-ViT (Li et al., ECCV 2022) optimises images from noise (`lampq.datasets.psaq.image_batch`). Real images are opened
for the last number only.
"""

from collections.abc import Iterator
from dataclasses import fields
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from lampq.datasets.base import ImageSets, MadeBatch
from lampq.datasets.imagenet import ImageNet
from lampq.datasets.psaq.image_batch import HISTORY, REVISION, Draws, PixelRange, make_batch
from lampq.datasets.psaq.recipe import Recipe
from lampq.datasets.shapes import Shapes
from lampq.errors import LampQError
from lampq.limits import integer, number, shown
from lampq.models.adapter import ModelAdapter
from lampq.parts import setting
from lampq.storage.digests import Digests
from lampq.storage.fingerprint import fingerprint
from lampq.storage.store import Store

LEARNING_RATE, LEARNING_RATE_SWIN = 0.20, 0.25
KIND = "synthesis"
"""Sub-folder of the store."""


def _several(key: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise LampQError(f"{key}={shown(value)}: must be a list with a number of pixels for each epoch, as [15,30]")
    return tuple(integer(key, pixels, minimum=0) for pixels in value)


def _two(key: str, value: Any, **bounds: float) -> tuple[float, ...]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise LampQError(f"{key}={shown(value)}: must be two numbers")
    return tuple(number(key, each, **bounds) for each in value)


class PSAQ(ImageSets):
    """Images of a source, a fixed number of them: calibration images are the first, D is a longer prefix of
    them (there are few, so they are shared; a line says how many).

    Args:
        source: ``psaq`` (optimised), ``noise`` (what the optimisation starts from, as colours) or ``real`` (training
            images of the data set that the result is measured on).
        root: folder of ImageNet whose validation images the result is measured on (and whose training images are
            the real ones); None for the embedded shapes.
        images: how many images there are.
        calibration_images: images that the base quantizer is calibrated on, at most.
        sample_images: size of the sample set D, at most. Labels are the classes that images were made to show; of
            noise, what the full-precision model takes it for.
        validation_images, batch_size, workers: see `lampq.datasets.imagenet.ImageNet`.
        steps, warmup, jitter, flip, learning_rate, betas, entropy_weight, class_weight, smoothness_weight, smoothness,
            bandwidth, density_points: see `lampq.datasets.psaq.recipe.Recipe`; no learning rate means PSAQ-ViT's, 0.25
            for Swin and 0.20 for others.
        dropped_tokens: tokens that are no patches: ``class`` (class and distillation tokens, so none of Swin's) or
            ``first`` (the first of each window, as the published code has it).
        images_per_batch: images optimised together; they share a density grid and a total variation.
    """

    source: Literal["psaq", "noise", "real"]
    root: str | None
    images: int = setting(minimum=1, maximum=1 << 20)
    calibration_images: int = setting(minimum=1)
    sample_images: int = setting(minimum=1)
    validation_images: int | None = setting(minimum=1)
    batch_size: int = setting(minimum=1)
    workers: int = setting(minimum=1)
    steps: int = setting(minimum=1)
    warmup: float = setting(at_least=0, at_most=0.99)
    jitter: list[int] = setting(check=_several)
    flip: float = setting(at_least=0, at_most=1)
    learning_rate: float | None = setting(above=0)
    betas: list[float] = setting(check=_two, at_least=0, at_most=0.9999)
    entropy_weight: float = setting(at_least=0)
    class_weight: float = setting(at_least=0)
    smoothness_weight: float = setting(at_least=0)
    smoothness: list[float] = setting(check=_two, at_least=0)
    bandwidth: float = setting(above=0)
    density_points: int = setting(minimum=2)
    dropped_tokens: Literal["class", "first"]
    images_per_batch: int = setting(minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.name = "psaq" if self.source == "psaq" else f"psaq, {self.source}"
        self._wanted = {"calibration": self.calibration_images, "sample": self.sample_images}
        self._counts = {name: min(count, self.images) for name, count in self._wanted.items()}
        self._real = self._real_images()
        self.full_validation_images = self._real.full_validation_images
        self._store: Store | None = None
        self._held: dict[str, dict[str, Tensor]] = {}

    def _real_images(self) -> ImageSets:
        counts, validated = tuple(self._counts.values()), self.validation_images
        if self.root is None:
            return Shapes(*counts, validated or Shapes.full_validation_images, self.batch_size)
        data_set = ImageNet if self.source == "real" else ValidationImages
        return data_set(self.root, *counts, validated, self.batch_size, self.workers)

    def bind(self, adapter: ModelAdapter) -> None:
        """Take the model that images are made from.

        Raises:
            LampQError: the result cannot be measured with this model.
        """
        if isinstance(self._real, Shapes) and tuple(adapter.input_size) != Shapes.input_size:
            raise LampQError(
                f"dataset.root=null: the result would be measured on the embedded shapes, which {adapter.name} does "
                "not know; add dataset.root=the folder of ImageNet that holds val/"
            )
        self._real.bind(adapter)
        self._adapter = adapter
        self._pixels = PixelRange(tuple(adapter.data_config["mean"]), tuple(adapter.data_config["std"]))
        self._classes = adapter.classes
        rate = LEARNING_RATE_SWIN if adapter.windows else LEARNING_RATE
        own = {f.name: getattr(self, f.name) for f in fields(Recipe) if f.name not in ("learning_rate", "dropped")}
        dropped = adapter.prefix_tokens if self.dropped_tokens == "class" else 1
        self._recipe = Recipe(**own, learning_rate=self.learning_rate or rate, dropped=dropped)

    def make(self, seed: int, store: Store, sample: bool, training: int | None) -> list[MadeBatch]:
        """Make the images that a run uses, unless they are in the store; noise and real images are not made."""
        if self.source != "psaq":
            return []
        self._store = store
        self._held.clear()  # the cost of reading them is counted by each run's store
        used = max(self._counts["calibration"], self._counts["sample"] if sample else 0, training or 0)
        shown = []
        for batch in self._batches(used):
            made = self._batch(seed, batch)
            file = store.path(KIND, self._key(seed, batch))
            shown.append(MadeBatch(batch, file, self._colours(made["images"]), self._history(batch, made)))
        return shown

    def calibration(self, seed: int) -> Tensor:
        if self.source == "real":
            return self._real.calibration(seed)
        return self.training(seed, self._counts["calibration"])

    def training(self, seed: int, count: int) -> Tensor:
        """The first so many images."""
        if self.source == "real":
            return self._real.training(seed, count)
        return torch.cat([self._batch(seed, batch)["images"] for batch in self._batches(count)])[:count]

    def sample(self, seed: int) -> tuple[Tensor, Tensor]:
        if self.source == "real":
            return self._real.sample(seed)
        count = self._counts["sample"]
        labels = torch.cat([self._batch(seed, batch)["labels"] for batch in self._batches(count)])[:count]
        return self.training(seed, count), labels

    def validation(self, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Real validation batches (images, labels), from image number `start` on."""
        return self._real.validation(start)

    @property
    def validation_count(self) -> int:
        return self._real.validation_count

    def names(self, which: str, seed: int, count: int | None = None) -> list[str]:
        if self._is_real(which):
            return self._real.names(which, seed, count)
        return [f"{self.source}/seed{seed}/{index}" for index in range(self._counts.get(which, count))]

    def identity(self, which: str, seed: int, count: int | None = None) -> dict:
        """The model, settings and seed that images are made from; of real images, as the data set that they are of."""
        if self._is_real(which):
            return self._real.identity(which, seed, count)
        count = self._counts.get(which, count)
        if count > self.images:
            raise LampQError(
                f"base_quantizer.images={count}: dataset.images={self.images} are made; give at most as many, or make "
                f"more by dataset.images={count}"
            )
        made = [fingerprint(self._key(seed, batch)) for batch in self._batches(count)]
        return {"images": count, "source": self.source, "made": made}

    def _is_real(self, which: str) -> bool:
        return self.source == "real" or which == "validation"

    def keep_digests(self, digests: Digests) -> None:
        self._real.keep_digests(digests)

    def repeated(self) -> list[str]:
        return self._real.repeated()

    def look_again(self) -> None:
        self._real.look_again()

    def notes(self, seed: int = 0, training: int | None = None) -> list[str]:
        kinds = {"psaq": "made from the model, none is real", "noise": "noise", "real": "real"}
        notes = [f"calibration and sample images are {kinds[self.source]}"]
        if self.source == "real":
            notes += self._real.notes(seed, training)
        else:
            for name, title in (("calibration", "calibration set"), ("sample", "sample set D")):
                count, wanted = self._counts[name], self._wanted[name]
                if count < wanted:
                    notes.append(f"the {title} has {count} images, all there are (dataset.images), instead of {wanted}")
            shared, count = min(self._counts.values()), self._counts["sample"]
            notes.append(f"the sample set D begins with the calibration images: {shared} of its {count} are shared")
        return notes

    def _batches(self, count: int) -> range:
        """Numbers of the batches that the first so many images are in."""
        return range(-(-count // self.images_per_batch))

    def _size(self, batch: int) -> int:
        return min(self.images_per_batch, self.images - batch * self.images_per_batch)

    def _key(self, seed: int, batch: int) -> dict:
        """Everything that a batch's images depend on."""
        key = {
            "model": self._adapter.name,
            "weights": self._weights,
            "revision": REVISION,
            "seed": seed,
            "batch": batch,
            "images": self._size(batch),
            "pixels": [self._pixels.mean, self._pixels.std],
        }
        return key | ({"recipe": self._recipe.to_json()} if self.source == "psaq" else {"noise": True})

    @cached_property
    def _weights(self) -> str:
        return self._adapter.weights_hash()

    def _batch(self, seed: int, batch: int) -> dict[str, Tensor]:
        """One batch: ``images``, ``labels`` and, of synthetic images, what else `make_batch` returns."""
        key = self._key(seed, batch)
        name = fingerprint(key)
        if name not in self._held:
            if self.source == "noise":
                self._held[name] = self._noise(seed, batch)
            elif self._store is None:
                self._held[name] = self._make(seed, batch, None)
            else:
                partial = self._store.partial(KIND, key)
                self._held[name] = self._store.fetch(KIND, key, lambda: self._make(seed, batch, partial))
        return self._held[name]

    def _make(self, seed: int, batch: int, partial: Any) -> dict[str, Tensor]:
        first = batch * self.images_per_batch
        name = f"synthetic images {first + 1} to {first + self._size(batch)} of {self.images}"
        return make_batch(self._adapter, self._recipe, self._pixels, self._draws(seed, batch), name, partial)

    @torch.no_grad()
    def _noise(self, seed: int, batch: int) -> dict[str, Tensor]:
        images = self._pixels.clamp_(self._draws(seed, batch).images)
        device = next(self._adapter.network.parameters()).device
        return {"images": images, "labels": self._adapter.run(images.to(device)).argmax(1).cpu()}

    def _draws(self, seed: int, batch: int) -> Draws:
        return Draws(seed, batch, (self._size(batch), *self._adapter.input_size), self._classes)

    def _colours(self, images: Tensor) -> Any:
        mean, std = (torch.tensor(values)[:, None, None] for values in (self._pixels.mean, self._pixels.std))
        return ((images * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()

    def _history(self, batch: int, made: dict[str, Tensor]) -> list[dict]:
        target = made["target"].item()
        return [
            {"batch": batch, "step": step, "learning_rate": self._recipe.learning_rate_at(step)}
            | dict(zip(HISTORY, values, strict=True))
            | {"total_variation_target": target}
            for step, values in enumerate(made["history"].tolist())
        ]


class ValidationImages(ImageNet):
    """ImageNet of which only ``val/`` has to be there."""

    splits = ("val",)
