"""Small timm models with random weights, and made-up images, on which whole runs take a second."""

from collections.abc import Iterator
from pathlib import Path

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lampq.base_quantizers.rtn import RoundToNearest
from lampq.datasets.base import ImageSets
from lampq.models.adapter import ModelAdapter
from lampq.models.timm_adapters import adapt
from lampq.plan.budget import Budget
from lampq.storage.fingerprint import fingerprint
from lampq.storage.store import Store
from lampq.tasks.classification import ClassificationTask
from lampq.tasks.task import Task
from lampq.workbench import Workbench, open_workbench

VIT_SIDE, SWIN_SIDE, CLASSES = 16, 36, 10
BUDGET = Budget(3, 3, (2, 3, 4), "fixed", (3, 3), "target")
VIT = {"img_size": VIT_SIDE, "patch_size": 4, "embed_dim": 24, "num_heads": 3, "num_classes": CLASSES}
SWIN = {
    "img_size": SWIN_SIDE,  # a grid of 9 x 9 patches, which windows of 4 do not divide; then 5 x 5
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 8,
    "depths": (2, 2),  # the second block of each stage has shifted windows
    "num_heads": (2, 4),
    "num_classes": CLASSES,
}


def vision_transformer(blocks: int = 3, seed: int = 0, **changes) -> VisionTransformer:
    """A ViT with 16 patches and a class token."""
    return _shaken(VisionTransformer(**{**VIT, "depth": blocks, **changes}), seed)


def distilled(blocks: int = 2, seed: int = 0, **changes) -> VisionTransformerDistilled:
    """A DeiT with two heads."""
    return _shaken(VisionTransformerDistilled(**{**VIT, "depth": blocks, **changes}), seed)


def swin(seed: int = 0, **changes) -> SwinTransformer:
    """Two stages with a patch merging between them."""
    return _shaken(SwinTransformer(**{**SWIN, **changes}), seed)


def vit_adapter(blocks: int = 3, seed: int = 0, **changes) -> ModelAdapter:
    return adapt("small_vit", vision_transformer(blocks, seed, **changes), input_size=(3, VIT_SIDE, VIT_SIDE))


def distilled_adapter(blocks: int = 2, seed: int = 0) -> ModelAdapter:
    return adapt("small_deit", distilled(blocks, seed), input_size=(3, VIT_SIDE, VIT_SIDE))


def swin_adapter(seed: int = 0) -> ModelAdapter:
    return adapt("small_swin", swin(seed), input_size=(3, SWIN_SIDE, SWIN_SIDE))


def images(adapter: ModelAdapter, count: int, seed: int = 1) -> Tensor:
    """``[count, 3, height, width]``"""
    return torch.randn(count, *adapter.input_size, generator=torch.Generator().manual_seed(seed))


def _shaken(network: nn.Module, seed: int) -> nn.Module:
    """Every parameter random (timm starts biases at zero, LayerNorms at one), large enough for logits that differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.dim() == 2 and "table" not in name:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
            else:
                parameter.copy_(0.2 * noise)
    return network.eval()


class MadeUpImages(ImageSets):
    """Random images, labelled by the full-precision model itself; some labels are wrong.

    Args:
        calibration_images, sample_images, validation_images: how many.
        batch_size: validation images in one forward pass.

    Attributes:
        reads: how often each of the three image sets was read.
    """

    name = "made_up"
    full_validation_images = 1000

    def __init__(
        self,
        calibration_images: int = 8,
        sample_images: int = 64,
        validation_images: int = 60,
        batch_size: int = 16,
    ) -> None:
        self.counts = {"calibration": calibration_images, "sample": sample_images, "validation": validation_images}
        self.batch_size = batch_size
        self.reads = dict.fromkeys(self.counts, 0)

    def bind(self, adapter: ModelAdapter) -> None:
        self._adapter = adapter.clone()

    def calibration(self, seed: int) -> Tensor:
        self.reads["calibration"] += 1
        return self._training(seed, self.counts["calibration"])

    def training(self, seed: int, count: int) -> Tensor:
        return self._training(seed, count)

    def sample(self, seed: int) -> tuple[Tensor, Tensor]:
        self.reads["sample"] += 1
        pictures = self._training(seed, self.counts["sample"])
        return pictures, self._labels(pictures)

    def validation(self, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        self.reads["validation"] += 1
        pictures = images(self._adapter, self.counts["validation"], seed=999)
        labels = self._labels(pictures)
        yield from zip(pictures[start:].split(self.batch_size), labels[start:].split(self.batch_size), strict=True)

    @property
    def validation_count(self) -> int:
        return self.counts["validation"]

    def names(self, which: str, seed: int, count: int | None = None) -> list[str]:
        return [f"{seed if which != 'validation' else 'v'}/{i}" for i in range(self.counts.get(which, count))]

    def identity(self, which: str, seed: int, count: int | None = None) -> dict:
        names = self.names(which, seed, count)
        return {"images": len(names), "list": fingerprint(names)}

    def _training(self, seed: int, count: int) -> Tensor:
        most = max(self.counts["calibration"], self.counts["sample"], count)
        return images(self._adapter, most, seed=10_000 + seed)[:count]

    @torch.no_grad()
    def _labels(self, pictures: Tensor) -> Tensor:
        labels = torch.cat([self._adapter.run(chunk).argmax(1) for chunk in pictures.split(16)])
        labels[::7] = (labels[::7] + 1) % CLASSES
        return labels


def search_over(adapter: ModelAdapter, root: Path, *, seed: int = 0, base_quantizer=None, **counts) -> Workbench:
    """Everything an allocator works with, on made-up images, the store under `root`."""
    if base_quantizer is not None and base_quantizer.quantizes_tensors:
        adapter = adapter.with_tensors()
    task = ClassificationTask(adapter, MadeUpImages(**counts), seed, torch.device("cpu"))
    return search_with(task, adapter, Store(root), base_quantizer)


def search_with(
    task: Task, adapter: ModelAdapter, store: Store, base_quantizer=None, budget: Budget = BUDGET
) -> Workbench:
    """Everything an allocator works with, for a task of any kind. The budget is what a bank of blocks needs."""
    return open_workbench(adapter, task, base_quantizer or RoundToNearest(), store, budget)
