"""LampQ: layer-wise mixed precision quantization for Vision Transformers.

In Python, `lampq.quantize` takes a network and images and gives back a quantized network. Once that is saved,
`lampq.load` reads it again. On the command line, `lampq` (in a checkout `python run.py`) runs experiments.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lampq.artefact.loading import load
    from lampq.errors import LampQError
    from lampq.plan.bit_plan import BitPlan
    from lampq.plan.budget import Budget
    from lampq.quantization import QuantizedNetwork, quantize

__version__ = "0.1.0"
__all__ = ["BitPlan", "Budget", "LampQError", "QuantizedNetwork", "load", "quantize"]

_HOME = {
    "BitPlan": "plan.bit_plan",
    "Budget": "plan.budget",
    "LampQError": "errors",
    "QuantizedNetwork": "quantization",
    "load": "artefact.loading",
    "quantize": "quantization",
}


def __getattr__(name: str) -> Any:
    """What is asked for, imported then: composing a configuration needs no PyTorch."""
    if name not in _HOME:
        raise AttributeError(f"module 'lampq' has no attribute {name!r}")
    return getattr(import_module(f"lampq.{_HOME[name]}"), name)
