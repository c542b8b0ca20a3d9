"""Weights from a file, loaded without executing code, and without changing a value."""

import logging
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from lampq.errors import LampQError
from lampq.models.restricted_unpickler import read_tensors

log = logging.getLogger(__name__)

State = dict[str, Tensor]
"""A state dictionary: tensors by name."""

PLAIN = ("model", "state_dict", "model_state", "model_state_dict", "module", "network")
AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema")
PAIR = ("student", "teacher")
"""Under which names training programs keep the weights. Those that were trained are taken before their moving average.
Of a student and a teacher, one is meant that only the user knows."""

PREFIXES = ("module", "_orig_mod", "model", "backbone", "encoder", "network")
"""First words of names that a wrapper has put there."""

WRAPPERS = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
"""Words that a wrapper of a part has put into names."""

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

DERIVED = ("relative_position_index", "attn_mask", "mask_token", "num_batches_tracked")
"""Last words of names that may be left out of a file: they follow from the architecture, or serve training only."""


def read_weights(path: str | Path) -> State:
    """Read a state dictionary from a safetensors file or one of PyTorch, whatever its suffix; what lies beside it in a
    training checkpoint is left out.

    Raises:
        LampQError: no such file, unreadable, or no state dictionary in it.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise LampQError(
            f"model.checkpoint={path}: no such file; give a .safetensors or .pth file, or null to download"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # of tensors that are refused below
            content = _read(path)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise LampQError(f"model.checkpoint={path}: cannot be read ({reason}); give an intact file") from error
    state = _unwrapped(content, path)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise LampQError(f"model.checkpoint={path}: holds no state dictionary of tensors; save model.state_dict()")
    if not all(isinstance(name, str) for name in state):
        raise LampQError(f"model.checkpoint={path}: its tensors are numbered, not named; save model.state_dict()")
    for name, tensor in state.items():
        _check_tensor(path, name, tensor)
    return dict(state)


def load_weights(
    network: nn.Module,
    state: State,
    path: str | Path,
    convert: Callable[[State, nn.Module], State] | None = None,
    resize: bool = False,
) -> None:
    """Load a state dictionary strictly: by its own names, without a wrapper's prefixes, or in another naming.

    Prefixes are left out only where then all names fit.

    Args:
        convert: function (state, network) -> state for other namings, or None. It may rename, reshape, split and join
            tensors; what it makes of other values is refused.
        resize: whether it may also change values, as where position embeddings are resized.

    Raises:
        LampQError: names, shapes or kinds of numbers do not fit the architecture; values are not finite, or would have
            to be changed.
    """
    found = changed = None
    misfits = []
    for candidate, converted in _candidates(network, state, convert):
        misfit = _misfit(network, converted)
        if misfit is None:
            found = converted
            changed = _changed(candidate, converted) if converted is not candidate else None
            break
        misfits.append(misfit)
    if found is None:
        _, problem = min(misfits, key=lambda misfit: misfit[0])
        raise LampQError(
            f"model.checkpoint={path}: does not fit the model ({problem}); choose the model it was saved from"
        )
    if changed is not None:
        was = f" {list(state[changed].shape)}" if changed in state else ""
        what = f"{changed}{was} would have to become {list(found[changed].shape)}, with other values"
        if not resize:
            raise LampQError(
                f"model.checkpoint={path}: is of another size than the model ({what}); choose the model it was saved "
                "from, or model.resize_weights=true"
            )
        log.warning("model.resize_weights=true: %s has other weights than %s", type(network).__name__, path)
    _check_values(network, found, path)
    network.load_state_dict(found, strict=True)


def _read(path: Path) -> Any:
    """By what the file holds, not by what it is called."""
    with path.open("rb") as file:
        start = file.read(9)
    if len(start) == 9 and start[8:] == b"{":
        from safetensors.torch import load_file

        return load_file(str(path))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise ValueError("a TorchScript program; save model.state_dict()")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        return read_tensors(path)


def _unwrapped(content: Any, path: Path) -> Any:
    """The innermost dictionary that is kept under one of the usual names."""
    while isinstance(content, dict):
        inner = [name for name in (*PLAIN, *AVERAGED, *PAIR) if isinstance(content.get(name), dict)]
        if not inner:
            return content
        if set(PAIR) <= set(inner) and inner[0] in PAIR:
            raise LampQError(
                f"model.checkpoint={path}: holds a student and a teacher; save the state dictionary of the one that is "
                "meant"
            )
        if len(inner) > 1:
            log.info("model.checkpoint=%s: takes %s, not %s", path, inner[0], ", ".join(inner[1:]))
        content = content[inner[0]]
    return None


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    wrong = None
    if tensor.is_quantized:
        wrong = "quantized"
    elif tensor.layout is not torch.strided:
        wrong = "sparse"
    elif tensor.device.type != "cpu":
        wrong = f"without values (device {tensor.device})"
    if wrong is not None:
        raise LampQError(f"model.checkpoint={path}: {name} is {wrong}; save the model's plain weights")


def _check_values(network: nn.Module, state: State, path: str | Path) -> None:
    """Numbers of a kind that the network has, all of them finite."""
    halved = set()
    for name, own in network.state_dict().items():
        tensor = state[name]
        kind = str(tensor.dtype).removeprefix("torch.")
        whole = not tensor.is_floating_point() and not tensor.is_complex()
        fits = tensor.dtype in FLOATS if own.is_floating_point() else whole
        if not fits:
            raise LampQError(
                f"model.checkpoint={path}: {name} holds {kind} numbers; give weights in full precision (float32)"
            )
        if own.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise LampQError(
                f"model.checkpoint={path}: {name} has values that are not finite (NaN or infinite); give intact weights"
            )
        if own.is_floating_point() and tensor.dtype != own.dtype:
            halved.add(kind)
    if halved:
        log.info("model.checkpoint=%s: holds %s weights, taken as float32", path, " and ".join(sorted(halved)))


def _without_prefixes(state: State) -> Iterator[State]:
    """The state dictionary itself, then without the first words of its names that wrappers put there, in any number
    and order."""
    yield state
    names = tuple(WRAPPERS.sub("", name).lstrip(".") for name in state)
    waiting, seen = [names], {tuple(state)}
    while waiting:
        names = waiting.pop(0)
        if names not in seen and len(set(names)) == len(names):
            seen.add(names)
            yield dict(zip(names, state.values(), strict=True))
        for prefix in PREFIXES:
            shorter = tuple(name.removeprefix(f"{prefix}.") for name in names)
            if shorter not in seen and shorter != names:
                waiting.append(shorter)


def _candidates(network: nn.Module, state: State, convert: Callable | None) -> Iterator[tuple[State, State]]:
    """What may be loaded, and what it was made of: the file as it is, without prefixes, and the same converted."""
    for candidate in _without_prefixes(state):
        yield candidate, candidate
    for candidate in _without_prefixes(state) if convert is not None else ():
        try:
            yield candidate, convert(dict(candidate), network)
        except Exception:
            continue


def _misfit(network: nn.Module, state: State) -> tuple[int, str] | None:
    """How many names are wrong, and what to say of it; None where all fit."""
    own = network.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        first = f"missing {missing[0]}" if missing else f"unknown {unknown[0]}"
        counts = len(missing), len(unknown)
        return sum(counts), "{} missing and {} unknown tensors, first: {}".format(*counts, first)
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            return 0, f"{name} is {list(state[name].shape)} instead of {list(tensor.shape)}"
    return None


def _changed(state: State, converted: State) -> str | None:
    """The first tensor of a conversion whose values are not those of the file, in whatever order, or None.

    A tensor may be made of two or three of the file (queries, keys and values), or be a part of one.
    """
    before = [_values(tensor) for name, tensor in state.items() if not name.endswith(DERIVED)]
    after: dict[str, tuple[int, int]] = {}
    for name, tensor in converted.items():
        values = _values(tensor)
        if values in before:
            before.remove(values)
        elif bool(tensor.any()) and not name.endswith(DERIVED):  # a bias of zeros may be added
            after[name] = values
    for name, values in list(after.items()):
        if values in _joined(values[0], before):
            del after[name]
    for values in before:
        for names in (names for count in (2, 3) for names in combinations(after, count)):
            if _sum([after[name] for name in names]) == values:
                for name in names:
                    del after[name]
                break
    return next(iter(after), None)


def _joined(size: int, parts: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """What two or three equally large tensors give together."""
    alike = {count: [part for part in parts if part[0] * count == size] for count in (2, 3)}
    return {_sum(chosen) for count, found in alike.items() for chosen in combinations(found, count)}


def _sum(parts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    sizes, hashes = zip(*parts, strict=True)
    return sum(sizes), sum(hashes) % 2**64


def _values(tensor: Tensor) -> tuple[int, int]:
    """How many values a tensor has, and a hash of them whatever their order: that of two joined tensors is the sum."""
    bits = tensor.detach().cpu().contiguous().reshape(-1).double().view(torch.int64)
    mixed = (bits ^ (bits >> 29)) * 0x5851F42D4C957F2D
    mixed = (mixed ^ (mixed >> 32)) * 0x14057B7EF767814F
    return tensor.numel(), int(mixed.sum()) % 2**64
