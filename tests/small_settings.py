"""Settings of a whole run on a small model, as a command line would give them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lampq.configuration.settings import Settings
from lampq.transform.none import NoTransform
from tests.small_models import MadeUpImages, vit_adapter


def small_settings(folder: Path, blocks: int = 3, **changes: Any) -> Settings:
    """Settings with results and store in a folder; base quantizer, allocator and budget are to be given.

    Args:
        blocks: of the model.
    """
    model = SimpleNamespace(name="small_vit", build=lambda device: vit_adapter(blocks))
    return Settings(
        **{
            "model": model,
            "dataset": MadeUpImages(),
            "transform": NoTransform(),
            "seed": 0,
            "device": "cpu",
            "threads": None,
            "bank": "reuse",
            "force": False,
            "baseline": "none",
            "prefix_memory_gib": 1.0,
            "results": folder / "results",
            "cache": folder / "cache",
            "logger": {"name": "csv"},
            "resolved": {},
            **changes,
        }
    )
