"""A saved model as a network again: without calibration, images or the original weights, and executing no code."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from lampq.artefact.files import DESCRIPTION, TENSORS, model_folder
from lampq.artefact.integer import to_integers
from lampq.artefact.modules import rebuild
from lampq.artefact.saving import VERSION
from lampq.errors import LampQError
from lampq.limits import choice
from lampq.models.adapter import InSegments, ModelAdapter
from lampq.models.architectures import bare_adapter
from lampq.plan.bit_plan import BitPlan
from lampq.transform.rebuilding import transformed_again

MALFORMED = (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError, AssertionError)
"""What values of another kind than were written end in, somewhere where they are used. LampQError is none of these."""

KEYS = ("format", "version", "architecture", "input_size", "data_config", "modules", "plan", "about", "sha256")


def load(folder: str | Path, execute: str = "simulated", network: nn.Module | None = None) -> nn.Module:
    """A quantized network from the folder that it was saved to.

    Args:
        folder: of ``model.safetensors`` and ``config.json``.
        execute: ``simulated``: values that the bits allow, multiplied in floating point, as when it was saved;
            ``integer``: codes, multiplied and summed as integers, scaled afterwards.
        network: for a network that is none of timm's own: one of the same class and sizes, whose weights do not matter.
            It is not changed.

    Returns:
        Images ``[images, channels, height, width]``, normalised as ``config.json`` says (``data_config``), to logits
        ``[images, classes]``.

    Raises:
        LampQError: no such folder, a file that is damaged, foreign or of another version, a network that does not fit.
    """
    adapter, _ = load_adapter(folder, network)
    if choice("execute", execute, ("simulated", "integer")) == "integer":
        to_integers(adapter)
    whole = adapter.tensors or adapter.task == "detection"  # a detector takes pictures of any size
    return InSegments(adapter) if whole else adapter.network


def load_adapter(folder: str | Path, network: nn.Module | None = None) -> tuple[ModelAdapter, dict[str, Any]]:
    """The same as an adapter, with what ``config.json`` says.

    Raises:
        LampQError: see `load`.
    """
    folder = model_folder(folder)
    description = read_description(folder)
    tensors = _tensors(folder, description["sha256"])
    try:
        plan = BitPlan.from_json(description["plan"])
        adapter = _unfilled(description, network)
    except MALFORMED as error:
        raise LampQError(f"{folder / DESCRIPTION}: is damaged ({_first(error)}); save the model again") from error
    except LampQError as error:
        raise LampQError(f"{folder / DESCRIPTION}: {error}") from error
    try:
        plan.check_fits(adapter.sites)
        _fill(adapter, description["modules"], tensors)
    except (LampQError, *MALFORMED) as error:
        raise LampQError(f"{folder}: does not fit its architecture ({_first(error)}); save the model again") from error
    return adapter, description


def _unfilled(description: dict[str, Any], network: nn.Module | None) -> ModelAdapter:
    """The adapter that a description tells of, with whatever weights its classes start from."""
    architecture = description["architecture"]
    adapter = bare_adapter(architecture, tuple(description["input_size"]), network)
    adapter = transformed_again(adapter, architecture.get("transform"))
    adapter.data_config = description["data_config"]
    tensors = any(module.get("kind") == "tensor" for module in description["modules"].values())
    return adapter.with_tensors() if tensors else adapter


def read_description(folder: Path) -> dict[str, Any]:
    """What ``config.json`` holds.

    Raises:
        LampQError: no such file, not of a model saved here, or of another version.
    """
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LampQError(f"{path}: {error.strerror}; give the folder of a saved model") from error
    except (ValueError, RecursionError) as error:
        raise LampQError(f"{path}: is damaged ({_first(error)}); save the model again") from error
    if not isinstance(description, dict) or description.get("format") != "lampq":
        raise LampQError(f"{path}: is not of a model that lampq saved; give the folder of one")
    if description.get("version") != VERSION:
        raise LampQError(
            f"{path}: version {description.get('version')!r}, and this lampq reads {VERSION}; save the model again, or "
            "take the lampq that wrote it"
        )
    if missing := [key for key in KEYS if key not in description]:
        raise LampQError(f"{path}: lacks {', '.join(missing)}; save the model again")
    return description


def _tensors(folder: Path, expected: str) -> dict[str, Tensor]:
    path = folder / TENSORS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LampQError(f"{path}: {error.strerror}; give the folder of a saved model") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise LampQError(f"{path}: is damaged, or not the one that {DESCRIPTION} describes; save the model again")
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise LampQError(f"{path}: is damaged ({_first(error)}); save the model again") from error


def _fill(adapter: ModelAdapter, modules: dict[str, dict], tensors: dict[str, Tensor]) -> None:
    """Put modules at their places, then everything else."""
    unknown = set(modules) - {name for name, _ in adapter.network.named_modules()}
    if unknown:
        raise LampQError(f"there is no module {sorted(unknown)[0]}")
    if missing := {site.name for site in adapter.sites} - set(modules):
        raise LampQError(f"nothing is said of {sorted(missing)[0]}")
    for name, described in modules.items():
        inside = f"{name}."
        own = {key.removeprefix(inside): tensors.pop(key) for key in list(tensors) if key.startswith(inside)}
        try:
            module = rebuild(described, own, adapter.module(name))
        except LampQError as error:
            raise LampQError(f"{name} {error}") from error
        adapter.replace_module(name, module.eval().requires_grad_(False))
    inside = tuple(f"{name}." for name in modules)
    wanted = {name for name in adapter.network.state_dict() if not name.startswith(inside)}
    if wanted != set(tensors):
        raise LampQError(f"tensors differ: {', '.join(sorted(wanted ^ set(tensors))[:3])}")
    adapter.network.load_state_dict(tensors, strict=False)


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
