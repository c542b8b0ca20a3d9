"""Drawing of single shapes: an outline filled with a texture.

A pixel is computed with additions, multiplications, divisions, comparisons and square roots only, which round alike on
every machine and whatever the number of shapes drawn at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OUTLINES = ("circle", "square", "diamond", "triangle", "pentagon", "hexagon", "star", "cross", "ring", "heart")
TEXTURES = ("solid", "horizontal", "vertical", "rising", "falling", "checks", "dots", "grid", "rings", "zigzag")

_COS72, _SIN72 = 0.30901699437494745, 0.9510565162951535
_COS36, _SIN36 = 0.8090169943749475, 0.5877852522924731
_HALF_SQRT3 = 0.8660254037844386
_NORMALS = {  # outward edge normals of the regular polygons, one corner up
    3: ((0.0, 1.0), (_HALF_SQRT3, -0.5), (-_HALF_SQRT3, -0.5)),
    5: ((0.0, 1.0), (_SIN36, -_COS36), (-_SIN36, -_COS36), (_SIN72, _COS72), (-_SIN72, _COS72)),
    6: ((1.0, 0.0), (-1.0, 0.0), (0.5, _HALF_SQRT3), (0.5, -_HALF_SQRT3), (-0.5, _HALF_SQRT3), (-0.5, -_HALF_SQRT3)),
}


def _edge_depths(corners: int, apothem: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([np.float32(apothem) - np.float32(a) * x - np.float32(b) * y for a, b in _NORMALS[corners]])


def _box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.minimum(np.float32(half_width) - np.abs(x), np.float32(half_height) - np.abs(y))


def outline_depth(outline: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How deep points lie inside an outline of about unit radius: positive inside, zero on the edge.

    x (to the right) and y (downwards) are any arrays of one shape, in the outline's own frame and in units of its
    radius. The outlines are scaled to similar areas, so that the area does not give a class away.
    """
    name = OUTLINES[outline]
    if name == "circle":
        return np.float32(0.90) - np.sqrt(x * x + y * y)
    if name == "square":
        return _box(x, y, 0.80, 0.80)
    if name == "diamond":
        return np.float32(0.80) - (np.abs(x) + np.abs(y)) * np.float32(0.70710678)
    if name == "triangle":
        return _edge_depths(3, 0.62, x, y - np.float32(0.15)).min(0)
    if name == "pentagon":
        return _edge_depths(5, 0.82, x, y).min(0)
    if name == "hexagon":
        return _edge_depths(6, 0.85, x, y).min(0)
    if name == "star":  # a point of the pentagram lies behind at least four of its five lines
        return np.sort(_edge_depths(5, 0.45, x, -y), axis=0)[1]
    if name == "cross":
        return np.maximum(_box(x, y, 1.0, 0.36), _box(x, y, 0.36, 1.0))
    if name == "ring":
        return np.float32(0.27) - np.abs(np.sqrt(x * x + y * y) - np.float32(0.75))
    lobe_x = np.abs(x) - np.float32(0.42)
    lobe_y = y + np.float32(0.33)
    lobes = np.float32(0.52) - np.sqrt(lobe_x * lobe_x + lobe_y * lobe_y)
    tip = np.float32(0.66) - (np.abs(x) + np.abs(y - np.float32(0.04))) * np.float32(0.70710678)
    return np.maximum(lobes, tip)


def _wave(t: np.ndarray) -> np.ndarray:
    return np.abs(np.float32(2) * (t - np.floor(t)) - np.float32(1)) - np.float32(0.5)


def texture_tone(texture: int, u: np.ndarray, v: np.ndarray, period: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """The mix of two colours that a texture asks for, from 0 (the first) to 1 (the second).

    u (to the right) and v (downwards) are pixels from the shape's centre, `period` is the texture's in pixels, `phase`
    a pair of shifts in periods; all broadcast together. Edges are one pixel soft.
    """
    name = TEXTURES[texture]
    half = np.float32(0.5)
    if name == "solid":
        return np.zeros(np.broadcast_shapes(u.shape, v.shape), dtype=np.float32)
    a, b = u / period + phase[0], v / period + phase[1]
    if name == "horizontal":
        tone = _wave(b) * period * half
    elif name == "vertical":
        tone = _wave(a) * period * half
    elif name == "rising":
        tone = _wave((a + b) * np.float32(0.70710678)) * period * half
    elif name == "falling":
        tone = _wave((a - b) * np.float32(0.70710678)) * period * half
    elif name == "checks":
        tone = _wave(a * np.float32(0.75)) * _wave(b * np.float32(0.75)) * period * np.float32(1.6)
    elif name == "dots":
        du, dv = a - np.floor(a) - half, b - np.floor(b) - half
        tone = (np.float32(0.33) - np.sqrt(du * du + dv * dv)) * period
    elif name == "grid":
        tone = (np.maximum(_wave(a), _wave(b)) - np.float32(0.2)) * period * half
    elif name == "rings":
        tone = _wave(np.sqrt(u * u + v * v) / period + phase[0]) * period * half
    else:
        tone = _wave(b + np.float32(1.1) * _wave(a * half)) * period * np.float32(0.4)
    return np.clip(tone + half, 0, 1)


@dataclass(frozen=True)
class Placement:
    """Where shapes lie and how they are turned: float32 arrays `[shapes]`.

    Centres and radius in pixels, cosine and sine of the outline's turn, the texture's period in pixels, its turn as a
    small slope, and its two phases in periods.
    """

    centre_x: np.ndarray
    centre_y: np.ndarray
    radius: np.ndarray
    cosine: np.ndarray
    sine: np.ndarray
    period: np.ndarray
    slope: np.ndarray
    phase_x: np.ndarray
    phase_y: np.ndarray


class Uniforms:
    """Hands out the columns of uniform random numbers `[images, numbers]`, each once."""

    def __init__(self, values: np.ndarray):
        self.values, self.used = values, 0

    def between(self, low: float, high: float) -> np.ndarray:
        """The next number of every image, in [low, high)."""
        self.used += 1
        return (low + (high - low) * self.values[:, self.used - 1]).astype(np.float32)

    def integer(self, choices: int) -> np.ndarray:
        return np.floor(self.between(0, choices)).astype(np.int64).clip(0, choices - 1)

    def colour(self, low: float, high: float) -> np.ndarray:
        return np.stack([self.between(low, high) for _ in range(3)], axis=1)[:, None, None, :]

    def placement(
        self, centre: tuple[float, float], radius: tuple[float, float], turn: float, period: tuple[float, float]
    ) -> Placement:
        angle_tangent = self.between(-turn, turn)  # of half the angle: a turn without trigonometric functions
        square = angle_tangent * angle_tangent
        return Placement(
            centre_x=self.between(*centre),
            centre_y=self.between(*centre),
            radius=self.between(*radius),
            cosine=(1 - square) / (1 + square),
            sine=2 * angle_tangent / (1 + square),
            period=self.between(*period),
            slope=self.between(-0.12, 0.12),
            phase_x=self.between(0, 1),
            phase_y=self.between(0, 1),
        )


def mix(below: np.ndarray, above: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Lay a colour `above` over one `below` `[..., 3]`, as far as its share `[...]` says."""
    return below + (above - below) * share[..., None]


def random_stream(seed: int, first: int, count: int, uniforms: int, noise: int) -> tuple[Uniforms, np.ndarray]:
    """Random numbers of images `first` to `first + count - 1` of the stream `seed`, each image's from its own key.

    Args:
        seed: the stream's key, 0 or more.
        first, count: which images.
        uniforms: how many uniform numbers an image gets, in [0, 1).
        noise: how many nearly normal ones.

    Returns:
        The uniform numbers, and noise of zero mean and unit deviation, float32 ``[images, noise]``.
    """
    noise_words = -(-noise // 2)  # four bytes a value, eight bytes a word
    words = np.empty((count, uniforms + noise_words), dtype="<u8")
    for row in range(count):
        key = np.array([seed, first + row], dtype=np.uint64)
        # Philox's raw words are the same in every version of NumPy; those of its distributions need not be.
        words[row] = np.random.Philox(key=key).random_raw(uniforms + noise_words)
    octets = np.ascontiguousarray(words[:, uniforms:]).view(np.uint8)[:, : noise * 4]
    # The sum of four uniform bytes is nearly normal (mean 510, deviation 147.8) and an exact integer.
    sums = octets.reshape(count, noise, 4).sum(-1, dtype=np.int32)
    return Uniforms((words[:, :uniforms] >> np.uint64(11)) * 2.0**-53), (sums - 510).astype(np.float32) / np.float32(
        147.8
    )


def draw_shapes(
    outlines: np.ndarray, textures: np.ndarray, placement: Placement, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw single shapes, each on an empty square of its own.

    Args:
        outlines, textures: numbers of the outlines and textures, ``[shapes]``.
        placement: where and how each shape lies.
        size: side of the square in pixels.

    Returns:
        Three float32 arrays ``[shapes, size, size]`` in [0, 1]: coverage (0 outside, 1 inside, one pixel soft;
        ``coverage > 0.5`` is the shape's mask), the texture's tone, and the contour (1 on the outermost pixels inside).
    """
    axis = np.arange(size, dtype=np.float32) + np.float32(0.5)
    coverage = np.empty((len(outlines), size, size), dtype=np.float32)
    tone, contour = np.empty_like(coverage), np.empty_like(coverage)

    def chosen(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        return values[rows].astype(np.float32)[:, None, None]

    for outline in np.unique(outlines):
        rows = np.flatnonzero(outlines == outline)
        radius, cosine, sine = (chosen(rows, p) for p in (placement.radius, placement.cosine, placement.sine))
        u = axis[None, None, :] - chosen(rows, placement.centre_x)
        v = axis[None, :, None] - chosen(rows, placement.centre_y)
        depth = outline_depth(int(outline), (cosine * u + sine * v) / radius, (cosine * v - sine * u) / radius)
        depth = depth * radius + np.float32(0.5)
        coverage[rows] = np.clip(depth, 0, 1)
        contour[rows] = coverage[rows] - np.clip(depth - np.float32(1.5), 0, 1)
    for texture in np.unique(textures):
        rows = np.flatnonzero(textures == texture)
        slope = chosen(rows, placement.slope)
        u = axis[None, None, :] - chosen(rows, placement.centre_x)
        v = axis[None, :, None] - chosen(rows, placement.centre_y)
        phase = np.stack([chosen(rows, placement.phase_x), chosen(rows, placement.phase_y)])
        tone[rows] = texture_tone(int(texture), u + slope * v, v - slope * u, chosen(rows, placement.period), phase)
    return coverage, tone, contour
