"""Architectures as a file names them: enough to build a network, without weights, to put saved ones into."""

import copy
from typing import Any

from torch import nn

from lampq.errors import LampQError
from lampq.limits import shown
from lampq.models.adapter import ModelAdapter
from lampq.storage.fingerprint import fingerprint

Architecture = dict[str, Any]
"""``library`` (``timm``, ``mmdet``, ``lampq`` for the embedded models, ``own``), ``name``, and what else that library
needs to build it: ``arguments`` of timm's `create_model`, ``quantize`` of a detector."""


def bare_adapter(
    architecture: Architecture, input_size: tuple[int, int, int], network: nn.Module | None = None
) -> ModelAdapter:
    """The adapter of an architecture, with whatever weights its classes start from.

    Args:
        input_size: (channels, height, width) of one image.
        network: where the library is ``own``: a network of this architecture; a copy of it is taken.

    Raises:
        LampQError: an architecture that nobody here builds, or another network.
    """
    library, name = architecture.get("library"), architecture.get("name")
    if library == "own":
        if network is None:
            raise LampQError(
                f"network=None: the model was made from a network of one's own ({name}); load it in Python by "
                "lampq.load(FOLDER, network=...), with one of its class and sizes"
            )
        if not isinstance(network, nn.Module):
            raise LampQError(f"network={shown(network)}: must be a network, for example MyViT(), not its class or name")
        network = copy.deepcopy(network).eval().cpu().float()
        if network_name(network) != name:
            raise LampQError(f"network={network_name(network)}: the model was made from {name}; give one of the same")
    elif library == "timm":
        network = _of_timm(name, architecture.get("arguments", {}))
    elif library not in ("lampq", "mmdet"):
        raise LampQError(f"architecture={library}/{name}: this version does not know it; take the lampq that saved it")
    if library in ("own", "timm"):
        from lampq.models.timm_adapters import adapt

        adapter = adapt(name, network, input_size=input_size)
    elif library == "lampq" and "quantize" not in architecture:
        from lampq.models.embedded.architectures import build_embedded
        from lampq.models.timm_adapters import adapt

        adapter = adapt(name, build_embedded(name), input_size=input_size)
    else:
        from lampq.models.detection.detector_adapter import SwinDetectorAdapter

        adapter = SwinDetectorAdapter(
            name, _detector(library, architecture), quantize=architecture["quantize"], input_size=input_size
        )
    adapter.architecture = architecture
    return adapter


def network_name(network: nn.Module) -> str:
    """A name that says what a network computes with its weights: its class, and a hash over the kind and the plain
    settings (heads, window, eps ...) of every module."""
    plain = int | float | bool | str | None
    modules = [
        [
            name,
            f"{type(module).__module__}.{type(module).__qualname__}",
            sorted(
                (key, repr(value))
                for key, value in vars(module).items()
                if isinstance(value, plain)
                or (isinstance(value, tuple | list) and all(isinstance(each, plain) for each in value))
            ),
        ]
        for name, module in network.named_modules()
    ]
    return f"{type(network).__name__}-{fingerprint(modules)}"


def architecture_of(network: nn.Module, classes: int, image_size: tuple[int, int]) -> Architecture:
    """The architecture of a network that was given as an object: timm's, where `create_model` builds the same.

    Args:
        network: as it was given.
        classes: outputs of its head.
        image_size: (height, width) of the images it takes.
    """
    own = {"library": "own", "name": network_name(network)}
    known = network.pretrained_cfg if isinstance(getattr(network, "pretrained_cfg", None), dict) else {}
    name = known.get("architecture")
    if not isinstance(name, str):
        return own
    for arguments in ({"num_classes": classes}, {"num_classes": classes, "img_size": list(image_size)}):
        try:
            alike = network_name(_of_timm(name, arguments)) == own["name"]
        except (LampQError, TypeError, AssertionError, RuntimeError):
            continue
        if alike:
            return {"library": "timm", "name": name, "arguments": arguments}
    return own


def _of_timm(name: str, arguments: dict[str, Any]) -> nn.Module:
    import timm

    if not isinstance(name, str) or not timm.is_model(name.partition(".")[0]):
        raise LampQError(f"architecture={name}: timm has no such model; install the timm that the model was saved with")
    return timm.create_model(name, pretrained=False, **arguments)


def _detector(library: str, architecture: Architecture) -> nn.Module:
    if library == "lampq":
        from lampq.models.embedded.detectors import build_embedded_detector

        return build_embedded_detector()
    from lampq.models.detection.mmdet_detector import ARCHITECTURES, build_network, detector_config

    if architecture.get("config") not in ARCHITECTURES:
        raise LampQError(f"architecture={architecture.get('config')}: no detector of this version")
    return build_network(detector_config(architecture["config"]))
