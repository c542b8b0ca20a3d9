"""The embedded data set: small drawn images of 100 classes (ten outlines by ten textures), nothing to download.

Each image shows one large shape near the middle, on a textured background, between small pieces of clutter of which
some lie over it, in uneven light and with noise. Every image is drawn from a random stream of its own, keyed by (seed,
index), and comes out the same on every machine.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lampq.datasets.base import SETS, ImageSets
from lampq.datasets.shape_drawing import OUTLINES, TEXTURES, Uniforms, draw_shapes, mix, random_stream
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.models.embedded.architectures import MEAN, STD
from lampq.parts import setting

REVISION = 1
"""Raised whenever any image changes."""

IMAGE_SIZE = 40
TRAINING_SEED, CALIBRATION_SEED, SAMPLE_SEED, TEST_SEED = 101, 102, 103, 104
"""Keys of the four disjoint image streams: training, calibration, D (the sample set) and test (validation)."""
IMAGES_PER_RUN_SEED = 1 << 20
"""A run with seed s draws calibration and D from index s times this number on."""

CLASS_NAMES = tuple(f"{outline}, {texture}" for outline in OUTLINES for texture in TEXTURES)
"""Class c is outline c // 10 with texture c % 10."""

CLUTTER_BEHIND, CLUTTER_IN_FRONT = 7, 3
UNIFORMS = 256
"""Random numbers set aside for the layout of one image; the sensor's noise has its own."""
CHUNK = 256
"""Images drawn at once: bounds the memory, changes no pixel."""


def _draw(uniforms: Uniforms, noise: np.ndarray, labels: np.ndarray, size: int, difficulty: float) -> np.ndarray:
    count, difficulty = len(labels), np.float32(difficulty)
    scale = size / IMAGE_SIZE
    anywhere = (0.0, float(size))
    period = (3.8 * scale, 6.3 * scale)

    # Background: two near colours in a texture of its own.
    base = uniforms.colour(0.25, 0.75)
    swing = difficulty * uniforms.between(-0.12, 0.12)[:, None, None, None]
    _, tone, _ = draw_shapes(
        np.zeros(count, dtype=np.int64), uniforms.integer(10), uniforms.placement(anywhere, (1, 2), 0.1, period), size
    )
    image = mix(base - swing, base + swing + uniforms.colour(-0.05, 0.05), tone)

    def clutter(image: np.ndarray, radius: tuple[float, float]) -> np.ndarray:
        place = uniforms.placement(anywhere, (radius[0] * scale, radius[1] * scale), 1.0, period)
        coverage, tone, _ = draw_shapes(uniforms.integer(10), uniforms.integer(10), place, size)
        colour = uniforms.colour(0.1, 0.9)
        return mix(image, mix(colour, colour + uniforms.colour(-0.3, 0.3), tone), difficulty * coverage)

    for _ in range(CLUTTER_BEHIND):
        image = clutter(image, (2.0, 4.5))

    # The shape itself: two colours that differ in lightness.
    place = uniforms.placement((0.43 * size, 0.57 * size), (11.5 * scale, 15.5 * scale), 0.1, period)
    coverage, tone, contour = draw_shapes(labels // 10, labels % 10, place, size)
    colour = uniforms.colour(0.15, 0.85)
    contrast = uniforms.between(0.11, 0.29)[:, None, None, None] + np.float32(0.3) * (1 - difficulty)
    contrast = np.where(colour.mean(-1, keepdims=True) < 0.5, contrast, -contrast)
    image = mix(image, mix(colour, colour + contrast, tone), coverage)
    image = mix(
        image,
        np.zeros_like(image),
        contour * (uniforms.between(0.3, 0.75)[:, None, None] + np.float32(0.2) * (1 - difficulty)),
    )

    for _ in range(CLUTTER_IN_FRONT):
        image = clutter(image, (2.0, 4.0))

    # Light: a gain, a slope across the image, then the sensor's noise.
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size) - np.float32(0.5)
    light = (
        uniforms.between(0.75, 1.2)[:, None, None]
        + uniforms.between(-0.4, 0.4)[:, None, None] * axis[None, None, :]
        + uniforms.between(-0.4, 0.4)[:, None, None] * axis[None, :, None]
    )
    image = image * light[..., None] + noise * (difficulty * uniforms.between(0.035, 0.10)[:, None, None, None])
    return np.clip(np.floor(image * np.float32(255) + np.float32(0.5)), 0, 255).astype(np.uint8)


def generate_shapes(
    count: int, seed: int, size: int = IMAGE_SIZE, first: int = 0, difficulty: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw images `first` to `first + count - 1` of the stream `seed`.

    Image i depends on (seed, i), size and difficulty alone, not on how many are asked for. Labels follow the index, so
    that any hundred images in a row hold every class once.

    Args:
        count: how many images.
        seed: the stream's key, 0 or more.
        size: side of an image in pixels; everything in it grows along.
        first: index of the first image.
        difficulty: from 0 (no clutter, noise or background texture, strong contrast) to 1 (the data set's).

    Returns:
        Images uint8 ``[images, size, size, 3]`` and labels int64 ``[images]``.
    """
    images = np.empty((count, size, size, 3), dtype=np.uint8)
    labels = (np.arange(first, first + count, dtype=np.int64) * 37 + 11) % len(CLASS_NAMES)
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        uniforms, noise = random_stream(seed, first + start, stop - start, UNIFORMS, size * size * 3)
        noise = noise.reshape(stop - start, size, size, 3)
        images[start:stop] = _draw(uniforms, noise, labels[start:stop], size, difficulty)
    return images, labels


def normalize(images: np.ndarray | Tensor) -> Tensor:
    """uint8 ``[images, size, size, 3]`` to float32 ``[images, 3, size, size]`` of about zero mean, unit deviation."""
    pixels = torch.as_tensor(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((pixels - mean) / std).contiguous()


class Shapes(ImageSets):
    """The shapes as a classification data set: calibration images, the sample set D, validation images.

    Args:
        calibration_images: images that the base quantizer is calibrated on.
        sample_images: S of the paper, size of D.
        validation_images: images that the result is measured on, the same for every seed.
        batch_size: validation images in one forward pass.

    Raises:
        LampQError: a number is no integer of at least 1.
    """

    name = "shapes"
    full_validation_images = 4000
    input_size = (3, IMAGE_SIZE, IMAGE_SIZE)

    calibration_images: int = setting(32, minimum=1, maximum=IMAGES_PER_RUN_SEED)
    sample_images: int = setting(1024, minimum=1, maximum=IMAGES_PER_RUN_SEED)
    validation_images: int = setting(4000, minimum=1, maximum=IMAGES_PER_RUN_SEED)
    batch_size: int = setting(100, minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.counts = {which: getattr(self, f"{which}_images") for which in SETS}

    def bind(self, adapter: ModelAdapter) -> None:
        """Check that the model takes images of this size, and knows these classes."""
        if tuple(adapter.input_size) != self.input_size:
            raise LampQError(
                f"dataset=shapes: its images are {self.input_size}, but {adapter.name} takes"
                f" {tuple(adapter.input_size)}; choose model=shapes_vit or model=shapes_swin, or another dataset"
            )
        if adapter.classes != len(CLASS_NAMES):
            raise LampQError(
                f"dataset=shapes: has {len(CLASS_NAMES)} classes, and {adapter.name} knows {adapter.classes}; choose a "
                "model trained on them, or another dataset"
            )

    def calibration(self, seed: int) -> Tensor:
        return self.training(seed, self.counts["calibration"])

    def training(self, seed: int, count: int) -> Tensor:
        """The first so many training images, which begin with the calibration images; as `calibration`."""
        return normalize(generate_shapes(count, CALIBRATION_SEED, first=seed * IMAGES_PER_RUN_SEED)[0])

    def sample(self, seed: int) -> tuple[Tensor, Tensor]:
        images, labels = generate_shapes(self.counts["sample"], SAMPLE_SEED, first=seed * IMAGES_PER_RUN_SEED)
        return normalize(images), torch.from_numpy(labels)

    def validation(self, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(start, self.validation_count, self.batch_size):
            count = min(self.batch_size, self.validation_count - first)
            images, labels = generate_shapes(count, TEST_SEED, first=first)
            yield normalize(images), torch.from_numpy(labels)

    @property
    def validation_count(self) -> int:
        return self.counts["validation"]

    def names(self, which: str, seed: int, count: int | None = None) -> list[str]:
        """Stream, seed and number of each image."""
        stream = {"validation": which, "sample": f"sample/seed{seed}"}.get(which, f"calibration/seed{seed}")
        return [f"{stream}/{index}" for index in range(self.counts.get(which, count))]

    def identity(self, which: str, seed: int, count: int | None = None) -> dict:
        """The drawing's revision, the stream's key, where in it and how many."""
        count = self.counts.get(which, count)
        if count > IMAGES_PER_RUN_SEED:
            raise LampQError(f"base_quantizer.images={count}: must be at most {IMAGES_PER_RUN_SEED}")
        stream = {"validation": TEST_SEED, "sample": SAMPLE_SEED}.get(which, CALIBRATION_SEED)
        first = 0 if which == "validation" else seed * IMAGES_PER_RUN_SEED
        return {"dataset": self.name, "revision": REVISION, "stream": stream, "first": first, "images": count}
