"""Image classification: what a plan is scored by during search and reported by in the end."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lampq.models.adapter import ModelAdapter
from lampq.store import Store


class ClassificationTask:
    """Top-1 accuracy and cross-entropy on the images of a data set.

    Args:
        adapter: the full-precision model.
        dataset: where images come from (bound to the adapter here).
        seed: draws calibration images and the sample set D.
        device: where images are put.
    """

    def __init__(self, adapter: ModelAdapter, dataset, seed: int, device: torch.device) -> None:
        dataset.bind(adapter)
        self.dataset = dataset
        self.seed = seed
        self.device = device
        self.identity: dict = dataset.identity(seed)

    def make_images(self, store: Store, folder: Path, searches: bool, training_images: int | None) -> None:
        """Make the images that a run uses and show them in its folder; nothing for a data set that reads its images.

        Args:
            store: where they are kept.
            folder: of the run.
            searches: whether D is used.
            training_images: how many training images are; None for the calibration images.
        """
        if hasattr(self.dataset, "make"):
            self.dataset.make(self.seed, store, folder, self.dataset.needed(searches, training_images))

    @cached_property
    def calibration_images(self) -> Tensor:
        """``[images, channels, height, width]``"""
        return self.dataset.calibration(self.seed).to(self.device)

    def training_images(self, count: int | None) -> Tensor:
        """The first so many training images ``[images, channels, height, width]``; None: the calibration images."""
        if count is None:
            return self.calibration_images
        return self.dataset.training(self.seed, count).to(self.device)

    def listing(self, count: int | None) -> dict[str, list[str]]:
        """Names of the images used, by set; with the first `count` training images where these are used as well."""
        listing = self.dataset.listing(self.seed)
        return listing if count is None else {**listing, "training": self.dataset.training_listing(self.seed, count)}

    def training_identity(self, count: int | None) -> dict:
        """What identifies these images (JSON-able).

        Raises:
            LampQError: there are not so many.
        """
        return self.identity["calibration"] if count is None else self.dataset.training_identity(self.seed, count)

    @property
    def sample_images(self) -> Tensor:
        """Images of D, ``[images, channels, height, width]``."""
        return self._sample[0]

    @property
    def sample_labels(self) -> Tensor:
        """Dataset labels of D, ``[images]``."""
        return self._sample[1]

    @cached_property
    def _sample(self) -> tuple[Tensor, Tensor]:
        # Whoever comes first may be in inference mode; the Fisher traces need tensors that gradients accept.
        with torch.inference_mode(False):
            images, labels = self.dataset.sample(self.seed)
            return images.to(self.device), labels.to(self.device)

    def validation(self, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Validation batches (images, labels), from image number `start` on."""
        for images, labels in self.dataset.validation(start):
            yield images.to(self.device), labels.to(self.device)

    @property
    def validation_count(self) -> int:
        return self.dataset.validation_count

    @property
    def full_validation_images(self) -> int:
        """Size of the whole validation set, on which published accuracies are measured."""
        return self.dataset.full_validation_images

    @property
    def notes(self) -> list[str]:
        """What a reader of a result should know about the images."""
        return self.dataset.notes()

    def outcome(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Per-image results of a batch, ``[images]``: ``loss`` (cross-entropy, nats), ``top1``, ``top5`` (0 or 1).

        Of equal logits the class with the lower index is ahead; a logit that is not a number is ahead of all others.
        A collapsed model is therefore right as often as it would be by chance, or never.
        """
        loss = F.cross_entropy(logits.double(), labels, reduction="none")
        own, classes = logits.gather(1, labels[:, None]), torch.arange(logits.shape[1], device=logits.device)
        ranks = (~(logits <= own)).sum(1) + ((logits == own) & (classes < labels[:, None])).sum(1)
        return {"loss": loss, "top1": (ranks < 1).double(), "top5": (ranks < 5).double()}
