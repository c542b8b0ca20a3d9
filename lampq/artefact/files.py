"""The files of a saved model's folder."""

from pathlib import Path
from typing import Any

from lampq.errors import LampQError
from lampq.limits import shown

TENSORS, DESCRIPTION, CARD = SAVED = "model.safetensors", "config.json", "README.md"
"""Packed weights, what they mean, a card for people."""


def model_folder(value: Any) -> Path:
    """The path that a user gives.

    Raises:
        LampQError: it is none.
    """
    if not isinstance(value, str | Path) or not str(value).strip():
        raise LampQError(f"folder={shown(value)}: must be the path of a saved model's folder")
    return Path(value).expanduser()
