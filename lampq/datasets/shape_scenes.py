"""Scenes for detection: images in which several drawn shapes lie over each other, with the mask of every one.

The class of a shape is its outline, whatever its texture. Every scene is drawn from a random stream of its own, keyed
by (seed, index), and comes out the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lampq.datasets.shape_drawing import OUTLINES, Placement, Uniforms, draw_shapes, mix, random_stream
from lampq.models.embedded.detectors import SIDE

REVISION = 1
"""Raised whenever any scene changes."""

TRAINING_SEED, CALIBRATION_SEED, VALIDATION_SEED = 201, 202, 203
"""Keys of the three disjoint streams: training of the embedded detector, calibration and D, validation."""

SIZES = ((96, 128), (128, 96), (112, 112))
"""Height and width in pixels of scene i: entry i modulo their number. It is cut out of a square of `SIDE` pixels."""

MOST_SHAPES = 6
RADIUS = (8.0, 24.0)
"""Radius of shapes in pixels; their boxes are about 14 to 60 pixels wide. Small ones are the more frequent."""
LEAST_VISIBLE = 0.45
"""A shape is left out where it would leave less than this fraction of a shape before it visible."""
LEAST_AREA = 60
"""Pixels that a shape has to show inside the image."""

CLUTTER = 12
SHAPE_PATCH, CLUTTER_PATCH = 74, 16
"""Sides of the squares, in pixels, that single shapes and pieces of clutter are drawn on."""
UNIFORMS = 400
"""Random numbers set aside for the layout of one scene; the sensor's noise has its own."""
CHUNK = 32
"""Scenes drawn at once: bounds the memory, changes no pixel."""


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes:
        image: uint8 ``[height, width, 3]``, red, green, blue.
        labels: class of each shape, its outline's number in ``OUTLINES``, int64 ``[shapes]``.
        masks: the visible part of each shape, bool ``[shapes, height, width]``.
    """

    image: np.ndarray
    labels: np.ndarray
    masks: np.ndarray

    @property
    def boxes(self) -> np.ndarray:
        """The smallest boxes around the masks: left, top, right, bottom in pixels, float32 ``[shapes, 4]``."""
        columns, rows = self.masks.any(1), self.masks.any(2)
        return np.stack(
            [
                columns.argmax(1),
                rows.argmax(1),
                columns.shape[1] - columns[:, ::-1].argmax(1),
                rows.shape[1] - rows[:, ::-1].argmax(1),
            ],
            axis=1,
        ).astype(np.float32)


def draw_scenes(count: int, seed: int, first: int = 0) -> list[Scene]:
    """Draw scenes `first` to `first + count - 1` of the stream `seed`; scene i depends on (seed, i) alone.

    Args:
        count: how many scenes.
        seed: the stream's key, 0 or more.
        first: index of the first scene.
    """
    scenes: list[Scene] = []
    for start in range(first, first + count, CHUNK):
        stop = min(start + CHUNK, first + count)
        uniforms, noise = random_stream(seed, start, stop - start, UNIFORMS, SIDE * SIDE * 3)
        sizes = np.array([SIZES[index % len(SIZES)] for index in range(start, stop)])
        scenes += _draw(uniforms, noise.reshape(-1, SIDE, SIDE, 3), sizes)
    return scenes


def _draw(uniforms: Uniforms, noise: np.ndarray, sizes: np.ndarray) -> list[Scene]:
    period = (3.8, 7.5)

    # Background: two near colours in a texture of its own.
    base = uniforms.colour(0.25, 0.75)
    swing = uniforms.between(-0.10, 0.10)[:, None, None, None]
    place = uniforms.placement((0.0, float(SIDE)), (1, 2), 0.1, (4.0, 14.0))
    _, tone, _ = draw_shapes(np.zeros(len(sizes), dtype=np.int64), uniforms.integer(10), place, SIDE)
    images = mix(base - swing, base + swing + uniforms.colour(-0.05, 0.05), tone)

    for _ in range(CLUTTER):  # small pieces, of no class
        place = _spread(uniforms.placement((0.0, 1.0), (2.0, 4.0), 1.0, period), sizes)
        corners, place = _on_patches(place, CLUTTER_PATCH)
        coverage, tone, _ = draw_shapes(uniforms.integer(10), uniforms.integer(10), place, CLUTTER_PATCH)
        colour = uniforms.colour(0.1, 0.9)
        colours = mix(colour, colour + uniforms.colour(-0.3, 0.3), tone)
        for image, corner, above, share in zip(images, corners, colours, coverage, strict=True):
            inside, part = _overlap(corner, CLUTTER_PATCH, image.shape[:2])
            image[inside] = mix(image[inside], above[part], share[part])

    # The shapes: each two colours that differ in lightness, and a darker contour.
    shapes_wanted = 2 + uniforms.integer(MOST_SHAPES - 1)
    labels: list[list[int]] = [[] for _ in sizes]
    masks: list[list[np.ndarray]] = [[] for _ in sizes]
    for number in range(MOST_SHAPES):
        outlines, textures = uniforms.integer(len(OUTLINES)), uniforms.integer(10)
        place = _spread(uniforms.placement((0.08, 0.92), (0.0, 1.0), 0.15, period), sizes)
        least, most = RADIUS
        place = replace(place, radius=np.float32(least) + np.float32(most - least) * place.radius * place.radius)
        corners, place = _on_patches(place, SHAPE_PATCH)
        coverage, tone, contour = draw_shapes(outlines, textures, place, SHAPE_PATCH)
        colour = uniforms.colour(0.15, 0.85)
        contrast = uniforms.between(0.11, 0.29)[:, None, None, None]
        contrast = np.where(colour.mean(-1, keepdims=True) < 0.5, contrast, -contrast)
        colours = mix(colour, colour + contrast, tone)
        colours = mix(colours, np.zeros_like(colours), contour * uniforms.between(0.35, 0.75)[:, None, None])
        for row in np.flatnonzero(number < shapes_wanted):
            inside, part = _overlap(corners[row], SHAPE_PATCH, sizes[row])
            mask = np.zeros(sizes[row], dtype=bool)
            mask[inside] = coverage[row][part] > 0.5
            if mask.sum() < LEAST_AREA or any(_hides(mask, before) for before in masks[row]):
                continue
            visible = [(before[0] & ~mask, before[1]) for before in masks[row]]
            masks[row] = [*visible, (mask, int(mask.sum()))]
            labels[row].append(int(outlines[row]))
            images[row][inside] = mix(images[row][inside], colours[row][part], coverage[row][part])

    # Light: a gain, a slope across the image, then the sensor's noise.
    axis = (np.arange(SIDE, dtype=np.float32) + np.float32(0.5)) / np.float32(SIDE) - np.float32(0.5)
    light = (
        uniforms.between(0.75, 1.2)[:, None, None]
        + uniforms.between(-0.4, 0.4)[:, None, None] * axis[None, None, :]
        + uniforms.between(-0.4, 0.4)[:, None, None] * axis[None, :, None]
    )
    images = images * light[..., None] + noise * uniforms.between(0.02, 0.08)[:, None, None, None]
    pixels = np.clip(np.floor(images * np.float32(255) + np.float32(0.5)), 0, 255).astype(np.uint8)
    return [
        Scene(
            np.ascontiguousarray(image[:height, :width]),
            np.array(found, dtype=np.int64),
            np.stack([mask for mask, _ in visible]),
        )
        for image, found, visible, (height, width) in zip(pixels, labels, masks, sizes, strict=True)
    ]


def _spread(place: Placement, sizes: np.ndarray) -> Placement:
    """Centres in fractions of the image become pixels; sizes are (height, width) of each image."""
    sizes = sizes.astype(np.float32)
    return replace(place, centre_x=place.centre_x * sizes[:, 1], centre_y=place.centre_y * sizes[:, 0])


def _on_patches(place: Placement, side: int) -> tuple[np.ndarray, Placement]:
    """Corners (y, x) of a square around each centre, whole pixels `[shapes, 2]`, and the placement within it."""
    corners = np.stack([np.floor(place.centre_y), np.floor(place.centre_x)], axis=1) - np.float32(side // 2)
    place = replace(place, centre_y=place.centre_y - corners[:, 0], centre_x=place.centre_x - corners[:, 1])
    return corners.astype(np.int64), place


def _overlap(corner: np.ndarray, side: int, size: np.ndarray | tuple) -> tuple[tuple, tuple]:
    """Where a square lies in an image of (height, width), and which part of the square that is."""
    inside = tuple(slice(max(c, 0), max(min(c + side, s), 0)) for c, s in zip(corner, size, strict=True))
    return inside, tuple(slice(i.start - c, i.stop - c) for i, c in zip(inside, corner, strict=True))


def _hides(mask: np.ndarray, before: tuple[np.ndarray, int]) -> bool:
    """Whether a new shape would leave too little of one before it (its visible mask, its area when it was drawn)."""
    visible, area = before
    left = int((visible & ~mask).sum())
    return left < LEAST_VISIBLE * area or left < LEAST_AREA
