"""Smoothness of images: total variation, and the amount of it that natural images have."""

import math

from torch import Tensor

PUBLISHED_VALUES = 32 * 3 * 224 * 224
"""Colour values of the batch that the published target is meant for."""


def total_variation(images: Tensor) -> Tensor:
    """Sum of the norms, over all images, of the differences between neighbours in four directions.

    Args:
        images: ``[images, channels, height, width]``.

    Returns:
        A number of its own, no mean over images: it grows with the square root of the batch.

    Source: DeepInversion (Yin et al., CVPR 2020), as PSAQ-ViT uses it.
    """
    differences = (
        images[..., :, 1:] - images[..., :, :-1],
        images[..., 1:, :] - images[..., :-1, :],
        images[..., 1:, 1:] - images[..., :-1, :-1],
        images[..., 1:, :-1] - images[..., :-1, 1:],
    )
    return sum(difference.norm() for difference in differences)


def target_for(published: float, images: Tensor) -> float:
    """The target total variation of a batch, from that of 32 images of 224 x 224 pixels: a norm over all values."""
    return published * math.sqrt(images.numel() / PUBLISHED_VALUES)
