"""Mask R-CNN and Cascade Mask R-CNN with Swin backbones, as mmdet's own configuration files describe them."""

import logging
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.models.base import Model
from lampq.parts import setting

log = logging.getLogger(__name__)

BACKBONES = {
    "mask_rcnn_swin_tiny": "swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py",
    "mask_rcnn_swin_small": "swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco.py",
}
"""mmdet's configuration files. Those of one architecture differ in how it is trained, not in what it is."""

CASCADE_HEADS = "convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py"
"""mmdet has no cascade with a Swin; this one has the heads that the authors of Swin use."""

ARCHITECTURES = (*BACKBONES, *(f"cascade_{name}" for name in BACKBONES))

FILES = {
    "mask_rcnn_swin_tiny": "mask_rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco_20210906_131725-bacf6f7b.pth",
    "mask_rcnn_swin_small": "mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco_20210903_104808-b92c91f1.pth",
}
"""Weights that mmdet publishes. The authors of Swin publish those of all four architectures."""

RANDOM = "random"
"""In place of a checkpoint: seeded random weights."""


class MmdetDetector(Model):
    """A detector as ``model=...`` names it.

    Args:
        name: one of `ARCHITECTURES`.
        checkpoint: a file, of mmdet or of the authors of Swin (Swin-Transformer-Object-Detection); or ``random``, with
            which nothing is found, but every step of a run is tried.
        quantize: ``detector`` (every convolution and linear layer) or ``backbone`` (neck and heads in full precision).
        published_box_ap, published_mask_ap: published average precision in full precision, in percent, or None.

    Raises:
        LampQError: a value is none of these.
    """

    name: str = setting(options=ARCHITECTURES)
    checkpoint: str | None = None
    quantize: Literal["detector", "backbone"] = "detector"
    published_box_ap: float | None = setting(None, above=0)
    published_mask_ap: float | None = setting(None, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.architecture = self.name
        if self.checkpoint == RANDOM:  # nobody shall take what random weights give for a result
            self.name = f"{self.name}_{RANDOM}"

    def check(self) -> None:
        """See, before any work, that there are weights to read.

        Raises:
            LampQError: no checkpoint is given, or there is no such file.
        """
        if self.checkpoint is None:
            raise LampQError(self._where_from())
        if self.checkpoint != RANDOM:
            super().check()

    def build(self, device: torch.device) -> ModelAdapter:
        self.check()
        from lampq.models.checkpoints import read_weights
        from lampq.models.detection.detector_adapter import SwinDetectorAdapter
        from lampq.models.detection.mmdet_checkpoints import load_detector

        published = (self.published_box_ap, self.published_mask_ap)
        if self.checkpoint == RANDOM:
            log.warning(
                "model.checkpoint=random: %s has random weights; what is measured is no result", self.architecture
            )
            network, published = build_network(detector_config(self.architecture)), (None, None)
            fill_randomly(network)
        else:
            state = read_weights(self.checkpoint)
            network = build_network(detector_config(self.architecture))
            load_detector(network, state, self.checkpoint)
        adapter = SwinDetectorAdapter(
            self.name,
            network.to(device),
            quantize=self.quantize,
            published_ap=None if None in published else published,
        )
        names = {"name": self.name, "config": self.architecture, "quantize": self.quantize}
        adapter.architecture = {"library": "mmdet", **names}
        return adapter

    def _where_from(self) -> str:
        """What to do without a checkpoint."""
        authors = f"{self.architecture}_patch4_window7.pth of Swin-Transformer-Object-Detection"
        mmdet = f", or mmdet's {FILES[self.architecture]}" if self.architecture in FILES else ""
        return (
            "model.checkpoint=null: detectors are not downloaded; get the file and give it by model.checkpoint=FILE: "
            f"{authors}{mmdet}"
        )


def detector_config(name: str):
    """mmdet's configuration of one of `ARCHITECTURES`, without a backbone to download.

    Returns:
        mmengine's ConfigDict, to be changed at will and handed to `build_network`.

    Raises:
        LampQError: packages that are missing.
    """
    from lampq.models.detection.mmdet_import import import_mmdet

    import_mmdet()
    import mmdet
    from mmengine.config import Config

    folder = Path(mmdet.__file__).parent / ".mim" / "configs"
    config = Config.fromfile(folder / BACKBONES[name.removeprefix("cascade_")]).model
    if name.startswith("cascade_"):
        # Its header imports the package of ConvNeXt's backbone, which is not used here.
        cascade = Config.fromfile(folder / CASCADE_HEADS, import_custom_modules=False).model
        cascade.backbone, cascade.neck = config.backbone, config.neck
        config = cascade
    config.backbone.init_cfg = None
    return config


def build_network(config) -> nn.Module:
    """mmdet's detector of a configuration, with whatever weights its classes start from."""
    from mmdet.registry import MODELS

    return MODELS.build(config)


@torch.no_grad()
def fill_randomly(network: nn.Module, seed: int = 0) -> None:
    """Random weights of a size that keeps the size of what goes through them, so that scores and boxes differ."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
            inputs = module.weight[0].numel()
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator) / inputs**0.5)
            if module.bias is not None:
                module.bias.zero_()
    for name, parameter in network.named_parameters():
        if name.endswith("relative_position_bias_table"):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
