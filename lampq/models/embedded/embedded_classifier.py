"""The small classifiers that come with the package: they need no download and no data set on disk."""

from importlib import resources
from typing import Literal

import torch

from lampq.models.adapter import ModelAdapter
from lampq.models.base import Model


class EmbeddedClassifier(Model):
    """A tiny ViT or Swin, trained on the embedded shapes.

    Args:
        name: ``shapes_vit`` or ``shapes_swin``.
        checkpoint: other weights of the same architecture, or None for the embedded ones.
    """

    name: Literal["shapes_vit", "shapes_swin"]
    checkpoint: str | None = None

    def build(self, device: torch.device) -> ModelAdapter:
        from lampq.models.checkpoints import load_weights, read_weights
        from lampq.models.embedded.architectures import EMBEDDED, MEAN, STD, build_embedded
        from lampq.models.timm_adapters import adapt

        network = build_embedded(self.name)
        path = self.checkpoint or resources.files("lampq.models.embedded") / f"{self.name}.safetensors"
        load_weights(network, read_weights(str(path)), path)
        size = EMBEDDED[self.name]["img_size"]
        preprocessing = {"mean": MEAN, "std": STD}
        adapter = adapt(self.name, network.to(device), input_size=(3, size, size), data_config=preprocessing)
        adapter.architecture = {"library": "lampq", "name": self.name}
        return adapter
