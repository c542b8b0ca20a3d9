"""How unlike each other the patches of an image look to a Vision Transformer: patch similarity entropy."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lampq.datasets.psaq.entropy import differential_entropy, evaluation_points
from lampq.models.adapter import ModelAdapter


def pair_similarities(attended: Tensor, images: int, dropped: int) -> tuple[Tensor, Tensor]:
    """Cosine similarities between the patches of each image, as one block of a model attends to them.

    The similarity matrix is symmetric: a pair of two patches is given once and counts twice.

    Args:
        attended: attention times V, ``[images * windows, heads, tokens, channels of a head]``.
        images: number of images.
        dropped: tokens left out, the first of each window (class tokens are no patches).

    Returns:
        Similarities ``[images, pairs]`` of tokens of the same window, and how often each counts, ``[pairs]``.
    """
    features = F.normalize(attended.mean(1)[:, dropped:], dim=-1)
    tokens = features.shape[1]
    rows, columns = torch.triu_indices(tokens, tokens, device=features.device)
    pairs = (features @ features.transpose(1, 2)).flatten(1).index_select(1, rows * tokens + columns)
    counts = torch.where(rows == columns, 1.0, 2.0).to(features.dtype)
    windows = len(features) // images
    return pairs.reshape(images, -1), counts.repeat(windows)


class PatchSimilarityModel:
    """A model that also says how diverse the patch similarities are in each of its blocks.

    Args:
        adapter: the full-precision model; hooks are put on modules of its own.
        dropped: tokens left out, the first of each window.
        bandwidth, points: of the density estimate (see `differential_entropy`); the grid spans a block's similarities
            over all images.
    """

    def __init__(self, adapter: ModelAdapter, dropped: int, bandwidth: float, points: int) -> None:
        self.adapter = adapter.clone()
        self._dropped, self._bandwidth, self._points = dropped, bandwidth, points
        self._images = 0
        self._entropies: list[Tensor] = []
        for site in self.adapter.sites:
            if site.type == "pv":
                self.adapter.module(site.name).register_forward_hook(self._measure)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[images, classes]`` and entropies in nats ``[images, blocks]``."""
        self._images, self._entropies = len(images), []
        logits = self.adapter.run(images)
        return logits, torch.stack(self._entropies, dim=1)

    def _measure(self, module: nn.Module, operands: tuple[Tensor, ...], attended: Tensor) -> None:
        pairs, counts = pair_similarities(attended, self._images, self._dropped)
        grid = evaluation_points(pairs, self._points)
        self._entropies.append(differential_entropy(pairs, counts, grid, self._bandwidth))
