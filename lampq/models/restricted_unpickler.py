"""Reading the tensors of a pickled file without executing anything that the file names.

A pickle may name any function and have it called. Here a name is looked up in a short list of what tensors are made of;
whatever else a file holds beside its weights (arguments, an optimizer, a training's history) becomes an `Inert` object.
"""

import collections
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import _utils

TENSORS_ARE_MADE_BY = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch", "Tensor"): torch.Tensor,
    ("torch.nn.parameter", "Parameter"): torch.nn.Parameter,
    **{
        ("torch._utils", name): getattr(_utils, name)
        for name in (
            "_rebuild_tensor",
            "_rebuild_tensor_v2",
            "_rebuild_parameter",
            "_rebuild_sparse_tensor",
            "_rebuild_qtensor",
        )
    },
    **{
        ("torch", name): value
        for name, value in vars(torch).items()
        if isinstance(value, torch.dtype | torch.layout | torch.qscheme)
    },
}
"""Everything that a file may have called, by module and name; storages are added by PyTorch's reader."""


class Inert:
    """Stands for an object of a file that is not read: takes whatever it is given, and does nothing with it."""

    def __new__(cls, *arguments: object, **named: object) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *arguments: object, **named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass

    def extend(self, values: object) -> None:
        pass

    def add(self, value: object) -> None:
        pass


class RestrictedUnpickler(pickle.Unpickler):
    """Python's unpickler, which finds only what is in the list."""

    def find_class(self, module: str, name: str) -> Any:
        return TENSORS_ARE_MADE_BY.get((module, name), Inert)


def _load(file: Any, **options: Any) -> Any:
    return RestrictedUnpickler(file, **options).load()


_MODULE = SimpleNamespace(__name__="restricted_unpickler", Unpickler=RestrictedUnpickler, load=_load)


def read_tensors(path: Path) -> Any:
    """What `torch.save` has written, of the present format or the one before; objects are `Inert`.

    Raises:
        Exception: of many kinds, where the file is damaged or is none of these.
    """
    return torch.load(path, map_location="cpu", pickle_module=_MODULE, weights_only=False)
