"""The network as it comes."""

from lampq.models.adapter import ModelAdapter
from lampq.transform.base import Transform


class NoTransform(Transform):
    """Nothing is changed."""

    name = "none"
    revision = 1

    @property
    def identity(self) -> None:
        return None

    def apply(self, adapter: ModelAdapter) -> ModelAdapter:
        """The adapter as it was given."""
        return adapter

    def change(self, adapter: ModelAdapter) -> None:
        pass
