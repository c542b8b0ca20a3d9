"""What feeds each layer, seen in one run of the network and not read off its name.

A number format that knows what GELU gives, or a reparameterization that is folded into a LayerNorm, holds only where
that is what a layer really reads: a gate after the activation, a norm between it and the layer, or a norm that comes
after the residual sum change it, and keep all names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

MOVES = (
    *("view", "reshape", "flatten", "unflatten", "permute", "transpose", "movedim", "squeeze", "unsqueeze", "expand"),
    *("contiguous", "clone", "detach", "roll", "select", "narrow", "unbind", "chunk", "split", "__getitem__"),
    *("dropout", "pad"),
)
"""Functions that hand values on, at other places or with zeros around them; a network in evaluation mode drops none."""


@dataclass
class Source:
    """One output of a LayerNorm, a GELU or a softmax.

    Attributes:
        kind: ``layernorm``, ``gelu`` or ``softmax``.
        readers: how many functions have read it so far.
    """

    kind: str
    readers: int = 0


class Feeds(TorchFunctionMode):
    """Follows these outputs through a forward pass, without gradients, but not in inference mode."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        made = list(_tensors([result]))
        if not made:
            return result
        name = getattr(function, "__name__", "")
        read = [source for tensor in _tensors([*args, *kwargs.values()]) if (source := source_of(tensor))]
        if name in MOVES and not _pads_with_numbers(name, args, kwargs):
            source = source_of(args[0]) if args and isinstance(args[0], Tensor) else None
        else:
            for one in read:
                one.readers += 1
            kind = _kind(name, args, kwargs)
            source = None if kind is None else Source(kind)
        for tensor in made:
            # What is changed in place afterwards is no such output any more; views share the count of changes.
            tensor._lampq_source = source, _changes(tensor)
        return result


def source_of(tensor: Tensor) -> Source | None:
    """The output that a tensor holds, perhaps in part and at other places; None for anything else."""
    source, version = getattr(tensor, "_lampq_source", (None, 0))
    return source if source is not None and _changes(tensor) == version else None


def fed_by(read: list[Source | None]) -> str:
    """``layernorm``, ``gelu``, ``softmax``, or ``other``; asked when the forward pass is over.

    A LayerNorm counts where it has weight and bias, and where nothing else reads its output: only then can scales and
    shifts of its channels be folded into it.

    Args:
        read: what a layer read, each time it ran.
    """
    kinds = {
        "other" if source is None or (source.kind == "layernorm" and source.readers > 1) else source.kind
        for source in read
    }
    return kinds.pop() if len(kinds) == 1 else "other"


def _changes(tensor: Tensor) -> int:
    """How often a tensor was changed in place; one that was made in inference mode does not count it."""
    return 0 if tensor.is_inference() else tensor._version


def _kind(name: str, args: tuple, kwargs: dict) -> str | None:
    if name == "layer_norm":
        weight, bias = (args[i] if len(args) > i else kwargs.get(key) for i, key in ((2, "weight"), (3, "bias")))
        return "layernorm" if weight is not None and bias is not None and weight.dim() == 1 else None
    return name if name in ("gelu", "softmax") else None


def _pads_with_numbers(name: str, args: tuple, kwargs: dict) -> bool:
    return name == "pad" and (args[3] if len(args) > 3 else kwargs.get("value")) not in (None, 0)


def _tensors(values: list) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (one for one in value if isinstance(one, Tensor))
