"""A batch of images, optimised from noise so that the patches of each look as different as those of natural images.

PSAQ-ViT (Li et al., ECCV 2022): patch similarity entropy, a class to show, and smoothness; nothing but the
full-precision model is needed.
"""

import logging
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lampq.datasets.psaq.patch_similarity import PatchSimilarityModel
from lampq.datasets.psaq.recipe import Recipe
from lampq.datasets.psaq.smoothness import target_for, total_variation
from lampq.models.adapter import ModelAdapter
from lampq.progress import progress
from lampq.storage.store import Partial

log = logging.getLogger(__name__)

REVISION = 1
"""Raised whenever the images change."""
HISTORY = ("entropy", "class_loss", "total_variation", "loss")
"""What is noted at each step: patch similarity entropy (nats, mean over images, summed over blocks), cross-entropy to
the classes to show (nats), total variation, and the loss."""
SECONDS_BETWEEN_SAVES = 60
"""An interrupted batch loses at most so much work."""
BATCHES_PER_SEED = 1 << 20


@dataclass(frozen=True)
class PixelRange:
    """Values that a normalised pixel can have: mean and standard deviation of each channel, of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def clamp_(self, images: Tensor) -> Tensor:
        """Put ``[images, channels, height, width]`` into the range, in place."""
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            images[:, channel].clamp_(-mean / std, (1 - mean) / std)
        return images


class Draws:
    """Everything random about a batch, from one CPU generator.

    Args:
        seed: of the run.
        batch: number of the batch.
        shape: ``(images, channels, height, width)``.
        classes: of the model.

    Attributes:
        images: standard normal numbers of that shape.
        labels: classes to show, ``[images]``.
    """

    def __init__(self, seed: int, batch: int, shape: tuple[int, ...], classes: int) -> None:
        self._generator = torch.Generator().manual_seed(seed * BATCHES_PER_SEED + batch)
        self.labels = torch.randint(classes, (shape[0],), generator=self._generator)
        self.images = torch.randn(shape, generator=self._generator)

    def between(self, low: float, high: float) -> float:
        """A uniform number."""
        return low + (high - low) * torch.rand((), generator=self._generator, dtype=torch.float64).item()

    def augmentations(self, recipe: Recipe, side: int) -> tuple[list[int], list[bool]]:
        """Shift in pixels and whether to flip, for every step."""
        uniform = torch.rand(recipe.total_steps, 2, generator=self._generator, dtype=torch.float64).tolist()
        widest = [recipe.largest_shift(step, side) for step in range(recipe.total_steps)]
        shifts = [int(u * (2 * most + 1)) - most for (u, _), most in zip(uniform, widest, strict=True)]
        return shifts, [u < recipe.flip for _, u in uniform]


@torch.inference_mode(False)
def make_batch(
    adapter: ModelAdapter, recipe: Recipe, pixels: PixelRange, draws: Draws, name: str, partial: Partial | None = None
) -> dict[str, Tensor]:
    """Optimise a batch of images.

    Each step sees the images shifted (the same way along both axes) and perhaps flipped, and minimises minus the patch
    similarity entropy summed over blocks, plus the cross-entropy to the classes to show, plus the distance of the total
    variation from its target. Results depend on rounding: another device or number of threads ends with other pixels.

    Args:
        adapter: the full-precision model.
        recipe: the settings.
        pixels: values that a pixel can have.
        draws: start, classes and everything else that is random.
        name: of the images, for the progress shown.
        partial: where the state is kept now and then; a batch that was interrupted goes on from there.

    Returns:
        ``images`` ``[images, channels, height, width]``, normalised; ``labels``, the classes shown, and
        ``predictions`` of the model, ``[images]``; ``history`` ``[steps, len(HISTORY)]`` in float64; ``target`` of
        the total variation.
    """
    started = time.monotonic()
    device = next(adapter.network.parameters()).device
    model = PatchSimilarityModel(adapter, recipe.dropped, recipe.bandwidth, recipe.density_points)
    labels, images = draws.labels.to(device), draws.images.to(device).requires_grad_()
    target = target_for(draws.between(*recipe.smoothness), images)
    shifts, flips = draws.augmentations(recipe, images.shape[-1])
    optimizer = torch.optim.Adam([images], lr=recipe.learning_rate, betas=recipe.betas)
    history: list[list[float]] = []
    saved = partial.read() if partial is not None else None
    if saved is not None:
        with torch.no_grad():
            images.copy_(saved["images"])
        moments = {key: saved[key].to(device) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[images] = {"step": saved["step"], **moments}
        history = saved["history"].tolist()
    last_save = time.monotonic()
    bar = progress(description=f"making {name}", total=recipe.total_steps, unit="steps")
    bar.update(len(history))
    for step in range(len(history), recipe.total_steps):
        optimizer.param_groups[0]["lr"] = recipe.learning_rate_at(step)
        with torch.enable_grad():
            seen = images.roll((shifts[step], shifts[step]), (2, 3))
            seen = seen.flip(3) if flips[step] else seen
            logits, entropies = model(seen)
            entropy, class_loss = entropies.mean(0).sum(), F.cross_entropy(logits, labels)
            variation = total_variation(seen)
            loss = recipe.class_weight * class_loss - recipe.entropy_weight * entropy
            loss = loss + recipe.smoothness_weight * (variation - target).abs()
        (images.grad,) = torch.autograd.grad(loss, images)
        optimizer.step()
        with torch.no_grad():
            pixels.clamp_(images)
        history.append([entropy.item(), class_loss.item(), variation.item(), loss.item()])
        bar.update()
        if partial is not None and time.monotonic() - last_save >= SECONDS_BETWEEN_SAVES:
            partial.write({"images": images, "history": _table(history), **optimizer.state[images]})
            last_save = time.monotonic()
    bar.close()
    with torch.no_grad():
        predictions = adapter.run(images).argmax(1)
    log.info(
        "made %s in %.0f s: patch similarity entropy %.2f at first, %.2f at last; %d of %d are taken for their class",
        name,
        time.monotonic() - started,
        history[0][0],
        history[-1][0],
        (predictions == labels).sum().item(),
        len(labels),
    )
    return {
        "images": images.detach(),
        "labels": labels,
        "predictions": predictions,
        "history": _table(history),
        "target": torch.tensor(target, dtype=torch.float64),
    }


def _table(history: list[list[float]]) -> Tensor:
    return torch.tensor(history, dtype=torch.float64).reshape(-1, len(HISTORY))
