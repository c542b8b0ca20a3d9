"""The small detector that comes with the package: it needs no download and no data set on disk."""

from importlib import resources
from typing import Literal

import torch

from lampq.models.adapter import ModelAdapter
from lampq.models.base import Model


class EmbeddedDetector(Model):
    """A tiny Mask R-CNN with a Swin backbone, trained on drawn scenes.

    Args:
        name: ``shapes_mask_rcnn``.
        checkpoint: other weights of the same architecture, or None for the embedded ones.
        quantize: ``detector`` (every convolution and linear layer) or ``backbone`` (neck and heads in full precision).
    """

    name: Literal["shapes_mask_rcnn"]
    checkpoint: str | None = None
    quantize: Literal["detector", "backbone"] = "detector"

    def build(self, device: torch.device) -> ModelAdapter:
        from lampq.models.checkpoints import load_weights, read_weights
        from lampq.models.detection.detector_adapter import SwinDetectorAdapter
        from lampq.models.embedded.detectors import SIDE, build_embedded_detector

        path = self.checkpoint or resources.files("lampq.models.embedded") / f"{self.name}.safetensors"
        state = read_weights(str(path))
        network = build_embedded_detector()
        load_weights(network, state, path)
        adapter = SwinDetectorAdapter(self.name, network.to(device), quantize=self.quantize, input_size=(3, SIDE, SIDE))
        adapter.architecture = {"library": "lampq", "name": self.name, "quantize": self.quantize}
        return adapter
