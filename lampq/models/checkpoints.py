"""Weights from a file, loaded without executing code."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from lampq.errors import LampQError


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dictionary from .safetensors, or from .pth, .pt, .bin with weights only.

    Raises:
        LampQError: no such file, unreadable, or no state dictionary in it.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise LampQError(
            f"model.checkpoint={path}: no such file; give a .safetensors or .pth file, or null to download"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(str(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # PyTorch's own message recommends to load the file with code execution.
        raise LampQError(
            f"model.checkpoint={path}: holds more than tensors, or is damaged, and is not read because that could "
            "execute code; save model.state_dict(), best as .safetensors"
        ) from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise LampQError(f"model.checkpoint={path}: cannot be read ({reason}); give an intact file") from error
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise LampQError(f"model.checkpoint={path}: holds no state dictionary of tensors; save model.state_dict()")
    return {name.removeprefix("module."): value for name, value in state.items()}


def load_weights(network: nn.Module, state: dict[str, Tensor], path: str | Path, convert=None) -> None:
    """Load a state dictionary strictly; a file in the original repositories' naming is converted first.

    Args:
        convert: function (state, network) -> state for other namings, or None.

    Raises:
        LampQError: names or shapes do not fit the architecture.
    """
    problem = _misfit(network, state)
    if problem and convert is not None:
        try:
            converted = convert(dict(state), network)
        except Exception:
            converted = state
        if not _misfit(network, converted):
            state, problem = converted, None
    if problem:
        raise LampQError(
            f"model.checkpoint={path}: does not fit the model ({problem}); choose the model it was saved from"
        )
    network.load_state_dict(state, strict=True)


def _misfit(network: nn.Module, state: dict[str, Tensor]) -> str | None:
    own = network.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        first = f"missing {missing[0]}" if missing else f"unknown {unknown[0]}"
        return f"{len(missing)} missing and {len(unknown)} unknown tensors, first: {first}"
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            return f"{name} is {list(state[name].shape)} instead of {list(tensor.shape)}"
    return None
