"""The small detector that comes with the package: it needs no download and no data set on disk."""

from importlib import resources

import torch

from lampq.limits import choice, optional, text
from lampq.models.adapter import ModelAdapter
from lampq.models.base import Model


class EmbeddedDetector(Model):
    """A tiny Mask R-CNN with a Swin backbone, trained on drawn scenes.

    Args:
        name: ``shapes_mask_rcnn``.
        checkpoint: other weights of the same architecture, or None for the embedded ones.
        quantize: ``detector`` (every convolution and linear layer) or ``backbone`` (neck and heads in full precision).
    """

    def __init__(self, name: str, checkpoint: str | None = None, quantize: str = "detector") -> None:
        self.name = choice("model.name", name, ("shapes_mask_rcnn",))
        self.checkpoint = optional(text, "model.checkpoint", checkpoint)
        self.quantize = choice("model.quantize", quantize, ("detector", "backbone"))

    def build(self, device: torch.device) -> ModelAdapter:
        """Build the network with its weights.

        Raises:
            LampQError: a checkpoint is given that cannot be read or does not fit, or packages are missing.
        """
        from lampq.models.checkpoints import load_weights, read_weights
        from lampq.models.detection.detector_adapter import SwinDetectorAdapter
        from lampq.models.embedded.detectors import SIDE, build_embedded_detector

        path = self.checkpoint or resources.files("lampq.models.embedded") / f"{self.name}.safetensors"
        state = read_weights(str(path))
        network = build_embedded_detector()
        load_weights(network, state, path)
        return SwinDetectorAdapter(self.name, network.to(device), quantize=self.quantize, input_size=(3, SIDE, SIDE))
