"""A model as ``model=...`` names it, before it is built."""

from abc import ABC, abstractmethod

import torch

from lampq.limits import file, optional
from lampq.models.adapter import ModelAdapter
from lampq.parts import Part


class Model(Part, ABC):
    """Which network, and where its weights come from.

    Attributes:
        name: as rows of results have it.
        checkpoint: a file of weights; None for those that come with the model.
    """

    group = "model"
    checkpoint = None

    def check(self) -> None:
        """Find what can be found before any work starts.

        Raises:
            LampQError: something that building it takes is not there.
        """
        optional(file, "model.checkpoint", self.checkpoint)

    @abstractmethod
    def build(self, device: torch.device) -> ModelAdapter:
        """The network with its weights, on the device.

        Raises:
            LampQError: it cannot be built, or its weights cannot be read or do not fit.
        """
