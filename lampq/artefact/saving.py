"""A quantized model as a folder: packed weights, what they mean, and a card for people."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lampq.artefact.card import card
from lampq.artefact.files import CARD, DESCRIPTION, SAVED, TENSORS, model_folder
from lampq.artefact.modules import Description, describe
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.plan.bit_plan import BitPlan
from lampq.storage.atomic_write import write_whole

VERSION = 1
"""Of the files; raised when a reader of the version before could not read them."""


def save(
    folder: str | Path, original: ModelAdapter, quantized: ModelAdapter, plan: BitPlan, about: dict[str, Any]
) -> None:
    """Write a quantized model, whole or not at all; what is there is replaced.

    Args:
        folder: for ``model.safetensors``, ``config.json`` and ``README.md``.
        original: the full-precision model.
        quantized: the same with the plan's modules at its sites.
        plan: the bits of every site.
        about: what else the file should tell (JSON-able): fingerprint, method, metrics, versions.

    Raises:
        LampQError: the folder holds something else, or a module that the file has no name for.
    """
    folder = model_folder(folder).resolve()  # a link stays one, and leads to what is written
    if folder.exists() and not folder.is_dir():
        raise LampQError(f"{folder}: is no folder; give one of its own")
    if foreign := [path.name for path in folder.glob("*") if path.name not in SAVED]:
        raise LampQError(
            f"{folder}: holds {sorted(foreign)[0]}, which is no part of a saved model; move it away, or give a folder "
            "of its own"
        )
    modules, tensors = _described(original, quantized)
    for site in plan.sites:
        if site.weight_bits is not None and modules[site.name].get("weight") is None:
            raise LampQError(
                f"{site.name}: has {site.weight_bits}-bit weights, but its module does not name their format; give it "
                "weight_format"
            )
    written = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        try:
            written.mkdir(parents=True)
        except OSError as error:
            raise LampQError(f"{folder}: cannot be written ({error.strerror}); give another folder") from error
        path = written / TENSORS
        own = {name: _own(tensor) for name, tensor in sorted(tensors.items())}
        write_whole(path, lambda temporary: save_file(own, temporary, metadata={"format": "pt"}))
        description = {
            "format": "lampq",
            "version": VERSION,
            "architecture": original.architecture,
            "input_size": list(original.input_size),
            "data_config": _plain(original.data_config),
            "modules": modules,
            "quantization_config": compressed_tensors_config(modules),
            "plan": plan.to_json(),
            "about": about,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        (written / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        size = path.stat().st_size
        (written / CARD).write_text(card(description, size, 4 * original.parameters()), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(written, folder)
    finally:
        shutil.rmtree(written, ignore_errors=True)


def is_saved(folder: Path) -> bool:
    """Whether a model lies in a folder, whole."""
    return all((folder / name).is_file() for name in SAVED)


def _described(original: ModelAdapter, quantized: ModelAdapter) -> tuple[dict[str, Description], dict[str, Tensor]]:
    """Every module that the quantized network has of its own, and all tensors."""
    modules: dict[str, Description] = {}
    tensors: dict[str, Tensor] = {}
    for name in changed_modules(original.network, quantized.network, [site.name for site in original.sites]):
        try:
            modules[name], found = describe(quantized.module(name))
        except LampQError as error:
            raise LampQError(f"{name}: {error}") from error
        tensors |= {f"{name}.{key}": tensor for key, tensor in found.items()}
    inside = tuple(f"{name}." for name in modules)
    rest = {name: tensor for name, tensor in quantized.network.state_dict().items() if not name.startswith(inside)}
    return modules, tensors | rest


def changed_modules(original: nn.Module, quantized: nn.Module, sites: list[str]) -> list[str]:
    """Names of the modules at sites, and of others that are of another class than in the full-precision network."""
    classes = {name: type(module) for name, module in original.named_modules()}
    inside = tuple(f"{site}." for site in sites)
    others = [
        name
        for name, module in quantized.named_modules()
        if name not in sites and not name.startswith(inside) and type(module) is not classes.get(name)
    ]
    return [*sites, *others]


def compressed_tensors_config(modules: dict[str, Description]) -> dict[str, Any]:
    """The weights as compressed-tensors' configuration names them, for its readers: a group a bit-width and format."""
    targets: dict[tuple[str, int], list[str]] = {}
    for name, described in modules.items():
        weight = described.get("weight")
        if weight and weight["format"] != "binary" and weight["bits"] <= 8:
            targets.setdefault((weight["format"], weight["bits"]), []).append(name)
    groups = {
        f"group_{index}": {
            "weights": {"num_bits": bits, "type": "int", "symmetric": kind == "symmetric", "strategy": "channel"},
            "targets": names,
        }
        for index, ((kind, bits), names) in enumerate(sorted(targets.items()))
    }
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}


def _own(tensor: Tensor) -> Tensor:
    """A tensor that shares its memory with no other, which the file format asks for."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple | torch.Size) else value for key, value in config.items()}
