"""A detector's backbone by itself, on images of one size: what other runtimes run of a detector."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lampq.models.detection.detector_adapter import SwinDetectorAdapter
from lampq.models.detection.pictures import Images


class DetectorBackbone(SwinDetectorAdapter):
    """The same network, of which the backbone alone runs, one image of `input_size` after another.

    Sites are those in the backbone. `of` makes it from a detector; it shares the detector's modules.
    """

    @classmethod
    def of(cls, detector: SwinDetectorAdapter) -> "DetectorBackbone":
        own = cls.__new__(cls)
        own.__dict__.update(detector.__dict__)
        own.sites = tuple(site for site in detector.sites if site.name.startswith("backbone."))
        return own

    def run(self, state: Tensor) -> Tensor:
        """Feature maps of images ``[images, channels, height, width]``, one after another: ``[images, numbers]``."""
        maps = [self.network.backbone(image) for image in state.split(1)]
        return torch.cat([torch.cat([each.flatten(1) for each in of_image], 1) for of_image in maps])

    def fitted(self, images: Images) -> Tensor:
        """Images of sizes of their own, cut or filled up with zeros at the right and below."""
        height, width = self.input_size[1:]
        return torch.stack([functional.pad(i.x, (0, width - i.x.shape[2], 0, height - i.x.shape[1])) for i in images])


class Maps(nn.Module):
    """A backbone as a network with one output a feature map."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """An image ``[1, channels, height, width]`` to maps ``[1, channels, height, width]``, finest first."""
        return tuple(self.backbone(images))
