"""What every transform offers: the same function in another network, which is then quantized in its place."""

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch

from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.parts import Part

TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest, that single precision may leave in any network."""


class Transform(Part, ABC):
    """What becomes of the full-precision network before anything is calibrated.

    Base quantizers, metrics and allocators work on the transformed network as on any other.

    Attributes:
        name: as in ``transform=NAME``.
        revision: raised whenever the transformed weights change, so that stored results are not used again.
    """

    group = "transform"
    name: ClassVar[str]
    revision: ClassVar[int]

    @property
    def identity(self) -> dict[str, Any] | None:
        """Name, revision and settings (JSON-able); None where nothing is changed."""
        return {"name": self.name, "revision": self.revision, **self.settings()}

    def apply(self, adapter: ModelAdapter) -> ModelAdapter:
        """The transformed network. The given one is left as it was; what is not changed is shared.

        Raises:
            LampQError: a part of the model that it cannot be done to, or that changes what it computes.
        """
        twin = adapter.clone()
        # Hashed before: last bits of the folded weights may differ between machines, and are no other network.
        twin.transform = self.identity
        twin.weights_before = adapter.weights_hash()
        twin.architecture = {**copy.deepcopy(adapter.architecture), "transform": self.identity}
        self.change(twin)
        twin.network.requires_grad_(False)
        if adapter.task == "classification" and not _agree(adapter, twin):
            raise LampQError(
                f"transform={self.name}: {adapter.name} computes something else after it, as no ViT or Swin of timm "
                "does; choose transform=none"
            )
        twin.sites = twin._measure(twin.declare_sites())
        return twin

    @abstractmethod
    def change(self, adapter: ModelAdapter) -> None:
        """Change the network of an adapter: parameters are replaced by others, never written to."""


@torch.no_grad()
def _agree(adapter: ModelAdapter, twin: ModelAdapter) -> bool:
    """Whether both give the same logits for an image of noise: a network of one's own may do more than timm's."""
    weight = next(adapter.network.parameters())
    noise = torch.randn(1, *adapter.input_size, generator=torch.Generator().manual_seed(0)).to(weight)
    expected, found = (of.run(noise) for of in (adapter, twin))
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())


def told(identity: dict[str, Any]) -> str:
    """A transform in a line, with its settings."""
    settings = " ".join(f"{key}={value}" for key, value in identity.items() if key not in ("name", "revision"))
    return f"transformed before anything was quantized: {identity['name']} ({settings})"
