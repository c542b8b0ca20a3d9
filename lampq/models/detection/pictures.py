"""Images of different sizes on their way through a detector, what is to be found in them, and what was found.

A classifier's images have one size and fit into a tensor. A detector's have not, so a set of them is a sequence that
is cut, indexed and put together as that tensor would be.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

PIXELS_AT_ONCE = 1 << 20
"""Pixels of images of one size that run as one batch, at most: bounds the memory. Fixed, so that numbers do not
depend on a user's batch size."""

Stage = tuple[Tensor, tuple[int, int]]
"""What a backbone stage gave for an image: tokens ``[height * width, channels]``, and (height, width)."""


@dataclass(frozen=True)
class ImageState:
    """One image, or what a detector has made of it so far.

    Attributes:
        x: the image ``[channels, height, width]``, normalised and padded; behind the stem tokens
            ``[height * width, channels]``.
        size: (height, width) of `x`, in pixels or tokens.
        meta: mmdet's description of the image: ``img_id``, ``img_shape`` (height, width before padding),
            ``ori_shape``, ``scale_factor`` (width, height), ``pad_shape``, ``batch_input_shape``.
        stages: what the backbone's stages gave that are left behind; that of the last one is `x`, until it goes on.
    """

    x: Tensor
    size: tuple[int, int]
    meta: dict
    stages: tuple[Stage, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.x, *(tokens for tokens, _ in self.stages)))

    def to(self, device: torch.device) -> "ImageState":
        stages = tuple((tokens.to(device), size) for tokens, size in self.stages)
        return replace(self, x=self.x.to(device), stages=stages)


class Images(Sequence[ImageState]):
    """A set of images in the place of a tensor ``[images, ...]``.

    Args:
        states: the images, in order.
    """

    def __init__(self, states: Iterable[ImageState]) -> None:
        self.states = tuple(states)

    def __len__(self) -> int:
        return len(self.states)

    def __iter__(self) -> Iterator[ImageState]:
        return iter(self.states)

    def __getitem__(self, index):
        """One image by its number; several by a slice, or by a tensor or list of numbers."""
        if isinstance(index, slice):
            return Images(self.states[index])
        if isinstance(index, Tensor | list):
            return Images(self.states[int(i)] for i in index)
        return self.states[index]

    def split(self, count: int) -> list["Images"]:
        """Sets of `count` images, the last one with what is left; as `torch.Tensor.split`."""
        return [self[start : start + count] for start in range(0, len(self), count)]

    @property
    def device(self) -> torch.device:
        return self.states[0].x.device

    def to(self, device: torch.device) -> "Images":
        return Images(state.to(device) for state in self)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(state.nbytes for state in self)

    def is_inference(self) -> bool:
        """Whether they were made in inference mode, so that no gradient can pass; as `torch.Tensor.is_inference`."""
        return any(state.x.is_inference() for state in self)

    def clone(self) -> "Images":
        """Copies of all tensors, as `torch.Tensor.clone`."""
        copies = []
        for state in self:
            stages = tuple((tokens.clone(), size) for tokens, size in state.stages)
            copies.append(replace(state, x=state.x.clone(), stages=stages))
        return Images(copies)

    def map(self, function: Callable[..., Tensor], *others: "Images") -> "Images":
        """The images with `function` of their own `x`, and of those of other sets, in the place of `x`."""
        rows = zip(self, *others, strict=True)
        return Images(replace(row[0], x=function(*(state.x for state in row))) for row in rows)

    def groups(self) -> list["Images"]:
        """Consecutive images of one size that run as one batch, `PIXELS_AT_ONCE` at most (but never less than one)."""
        groups: list[list[ImageState]] = []
        for state in self:
            same = groups and groups[-1][0].x.shape == state.x.shape and groups[-1][0].size == state.size
            height, width = state.meta["pad_shape"]
            if same and (len(groups[-1]) + 1) * height * width <= PIXELS_AT_ONCE:
                groups[-1].append(state)
            else:
                groups.append([state])
        return [Images(group) for group in groups]

    @staticmethod
    def cat(parts: Iterable["Images"]) -> "Images":
        """The images of several sets, in order; as `torch.cat`."""
        return Images(state for part in parts for state in part)


@dataclass(frozen=True)
class Instances:
    """What is to be found in an image, in pixels of the detector's input.

    Attributes:
        boxes: left, top, right, bottom, float32 ``[instances, 4]``.
        labels: class numbers from 0 on, int64 ``[instances]``.
        masks: bool ``[instances, height, width]``, without padding.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Detections:
    """What a detector found in an image, in pixels of the original image.

    Attributes:
        boxes: left, top, right, bottom ``[detections, 4]``.
        scores: ``[detections]``, falling.
        labels: class numbers from 0 on, ``[detections]``.
        masks: of each detection, run-length encoded as pycocotools does (``size`` and ``counts``, bytes).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class SideBySide:
    """What two models find in the same images.

    Attributes:
        images: as they enter a detector.
        full_precision, quantized: what is found in each of them.
        names: of the classes.
    """

    images: list[ImageState]
    full_precision: list[Detections]
    quantized: list[Detections]
    names: list[str]


Pictures = Tensor | Images
"""A set of images: ``[images, channels, height, width]``, or images of different sizes."""
Targets = Tensor | Sequence
"""What is true of each of them: classes ``[images]``, or the instances in each image."""


def batches(pictures: Pictures, size: int) -> Sequence[Pictures]:
    """Sets that run through a network in one call each: `size` images of one size, or one image."""
    return pictures.split(1 if isinstance(pictures, Images) else size)


def with_gradients(pictures: Pictures) -> tuple[Pictures, list[Tensor]]:
    """A copy that gradients are taken of, and the tensors in it that they are taken of."""
    if isinstance(pictures, Tensor):
        leaf = pictures.clone().requires_grad_()
        return leaf, [leaf]
    states = [replace(state, x=state.x.clone().requires_grad_()) for state in pictures]
    return Images(states), [state.x for state in states]


def join(parts: Sequence[Pictures]) -> Pictures:
    """The images of several sets, in order, whatever holds them."""
    return torch.cat(list(parts)) if isinstance(parts[0], Tensor) else Images.cat(parts)
