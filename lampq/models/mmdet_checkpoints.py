"""Detectors' weights from files: those of mmdet, and those of the authors of Swin. No code of a file is executed."""

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from lampq.errors import LampQError
from lampq.models.checkpoints import load_weights, read_weights


class Inert:
    """Stands for an object of a file that is not read: takes whatever it is given, and does nothing with it."""

    def __new__(cls, *arguments: object) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_detector(path: str | Path) -> dict[str, Tensor]:
    """Read a detector's state dictionary.

    mmengine keeps the history of the training beside the weights, in objects of its own classes and of NumPy's, which
    PyTorch's reader refuses. `Inert` objects are put in their place: the file names a class, and never gets it.

    Raises:
        LampQError: no such file, unreadable, or no state dictionary in it.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise LampQError(f"model.checkpoint={path}: no such file; give a .pth or .safetensors file of the detector")
    with _objects_left_out(path):
        return read_weights(path)


def load_detector(network: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load a state dictionary strictly, of mmdet or in the naming of the authors of Swin.

    Raises:
        LampQError: names or shapes do not fit the architecture.
    """
    # Position indices follow from the window's size; not every file has them.
    indices = {name: value for name, value in network.state_dict().items() if name.endswith("position_index")}
    original = any(name.startswith("backbone.layers.") for name in state)
    load_weights(network, indices | (from_original(state) if original else state), path)


def from_original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the authors of Swin to those of mmdet, which also takes the channels of a patch merging in another
    order: mmdet's own converter of backbones. Neck and heads have had the same names since."""
    from mmdet.models.backbones.swin import swin_converter

    prefix = "backbone."
    backbone = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    rest = {name: value for name, value in state.items() if not name.startswith(prefix)}
    return {**swin_converter(backbone), **rest}


@contextlib.contextmanager
def _objects_left_out(path: Path) -> Iterator[None]:
    """Let PyTorch's safe reader put `Inert` objects in the place of those that it does not know."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        names = []  # no file of PyTorch's present format: read_weights says what is wrong, if anything is
    with torch.serialization.safe_globals([(Inert, name) for name in names]):
        yield
