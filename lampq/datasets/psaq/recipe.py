"""How images are made: the settings of PSAQ-ViT's optimisation, and what follows from them for each step."""

import math
from dataclasses import asdict, dataclass

PUBLISHED_SIDE = 224
"""Pixels of the images that shifts are given for."""


@dataclass(frozen=True)
class Recipe:
    """Settings of the optimisation, all of which change the images.

    Attributes:
        steps: optimiser steps of an epoch.
        warmup: fraction of an epoch in which the learning rate rises.
        jitter: largest shift in pixels of a 224-pixel image, one number an epoch.
        flip: probability that a step sees its images flipped.
        learning_rate: of Adam, at its highest.
        betas: of Adam.
        entropy_weight, class_weight, smoothness_weight: of the three terms of the loss.
        smoothness: lowest and highest target of the total variation, for 32 images of 224 x 224 pixels.
        bandwidth, density_points: of the density estimate.
        dropped: tokens left out of the similarities, the first of each window.
    """

    steps: int
    warmup: float
    jitter: tuple[int, ...]
    flip: float
    learning_rate: float
    betas: tuple[float, float]
    entropy_weight: float
    class_weight: float
    smoothness_weight: float
    smoothness: tuple[float, float]
    bandwidth: float
    density_points: int
    dropped: int

    @property
    def total_steps(self) -> int:
        """Steps of all epochs."""
        return self.steps * len(self.jitter)

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to 0; anew in each epoch."""
        step, warm = step % self.steps, round(self.warmup * self.steps)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * (1 + math.cos(math.pi * (step - warm) / (self.steps - warm))) / 2

    def largest_shift(self, step: int, side: int) -> int:
        """Pixels that images with sides of so many pixels are shifted by at most."""
        return round(self.jitter[step // self.steps] * side / PUBLISHED_SIDE)

    def to_json(self) -> dict:
        return asdict(self)
