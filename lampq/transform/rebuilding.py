"""A transformed network again, from what a file says of it."""

from typing import Any

from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.parts import build
from lampq.transform.base import Transform
from lampq.transform.hadamard import Hadamard

TRANSFORMS: dict[str, type[Transform]] = {Hadamard.name: Hadamard}
"""By the name that a file of a model has."""


def transformed_again(adapter: ModelAdapter, identity: dict[str, Any] | None) -> ModelAdapter:
    """The network with the structure that a transform leaves; what weights it has does not matter.

    Args:
        identity: as `Transform.identity` gives it; None for no transform.

    Raises:
        LampQError: one, or a setting, that this version does not know.
    """
    if identity is None:
        return adapter
    settings = dict(identity) if isinstance(identity, dict) else {}
    name, _ = settings.pop("name", None), settings.pop("revision", None)
    if not isinstance(name, str) or name not in TRANSFORMS:
        raise LampQError(f"transform={name}: this version does not know it; take the lampq that saved the model")
    return build(TRANSFORMS[name], "transform", settings).apply(adapter)
