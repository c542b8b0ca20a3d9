"""Quantized modules as tensors and a description, and back: what the file of a model says of each site."""

from typing import Any

import torch
from torch import Tensor, nn

from lampq.artefact.packing import pack, unpack
from lampq.errors import LampQError
from lampq.number_formats.adalog import AdaLogQuantizer
from lampq.number_formats.base import NumberFormat
from lampq.number_formats.binary import BinaryQuantizer
from lampq.number_formats.log_sqrt2 import LogSqrt2Quantizer
from lampq.number_formats.twin_uniform import PostGELUQuantizer, ProbabilityQuantizer
from lampq.number_formats.uniform import AffineQuantizer, SymmetricQuantizer
from lampq.number_formats.weights import WeightFormat
from lampq.quantized_modules.convolution import QuantizedConvolution
from lampq.quantized_modules.linear import QuantizedLinear
from lampq.quantized_modules.matmul import MatMul, QuantizedMatMul

FORMATS: dict[str, type[NumberFormat]] = {
    kind.name: kind
    for kind in (
        AffineQuantizer,
        SymmetricQuantizer,
        BinaryQuantizer,
        AdaLogQuantizer,
        LogSqrt2Quantizer,
        ProbabilityQuantizer,
        PostGELUQuantizer,
    )
}
"""Number formats by their names in a file."""

WEIGHT_FORMATS = ("affine", "symmetric", "binary")

Description = dict[str, Any]
"""JSON-able: what a module is, apart from its tensors."""

Tensors = dict[str, Tensor]


def describe(module: nn.Module) -> tuple[Description, Tensors]:
    """What a quantized module is, and its tensors by names inside the module.

    Weights are written as their codes, in compressed-tensors' names: ``weight_packed``, ``weight_scale``,
    ``weight_zero_point``, ``weight_shape``, and ``weight_g_idx`` (the group of each column) where there are groups.

    Raises:
        LampQError: weights that are not the values of their codes.
    """
    if isinstance(module, QuantizedLinear | QuantizedConvolution):
        return _describe_layer(module)
    if isinstance(module, QuantizedMatMul):
        return _describe_operands("matmul", module, ("quantize_a", "quantize_b", "quantize_output"))
    if isinstance(module, NumberFormat):
        described, tensors = _describe_format(module, "")
        return {"kind": "tensor", "format": described}, tensors
    if type(module) in PLAIN:
        return {"kind": PLAIN[type(module)]}, {}
    if isinstance(module, nn.Linear | nn.Conv2d):
        return {"kind": "full_precision"}, dict(module.state_dict())
    raise LampQError(f"{type(module).__name__}: the file of a model has no name for it")


PLAIN = {nn.Identity: "identity", nn.ReLU: "relu", MatMul: "product"}
"""Modules that are their class and nothing else."""


def rebuild(described: Description, tensors: Tensors, place: nn.Module) -> nn.Module:
    """The module of a description and its tensors.

    Args:
        place: the full-precision module whose place it takes.

    Raises:
        LampQError: what cannot be: an unknown kind or format, tensors that are missing, too many or of another shape.
    """
    left = dict(tensors)
    module = _rebuild(described, left, place)
    if left:
        raise LampQError(f"has tensors that nothing needs: {', '.join(sorted(left))}")
    return module


def _rebuild(described: Description, tensors: Tensors, place: nn.Module) -> nn.Module:
    kind = described.get("kind")
    if kind in PLAIN.values():
        return next(made for made, name in PLAIN.items() if name == kind)()
    if kind == "tensor":
        return _rebuild_format(described["format"], tensors, "")
    if kind == "matmul":
        return QuantizedMatMul(*_rebuild_operands(described, tensors, ("quantize_a", "quantize_b", "quantize_output")))
    if kind == "full_precision":
        bias = tensors.pop("bias", None)
        place.load_state_dict({"weight": _take(tensors, "weight")} | ({} if bias is None else {"bias": bias}))
        return place
    if kind not in ("linear", "convolution"):
        raise LampQError(f"is a {kind!r}, which this version does not know")
    weight, weight_format = _rebuild_weight(described["weight"], tensors)
    if weight.shape != place.weight.shape:
        raise LampQError(f"has weights {list(weight.shape)} where the model has {list(place.weight.shape)}")
    bias = tensors.pop("bias", None)
    (quantize_input,) = _rebuild_operands(described, tensors, ("quantize_input",))
    if kind == "convolution":
        made = QuantizedConvolution(weight, place, quantize_input, bias, weight_format)
        made.bias = bias
        return made
    channels = [tensors.pop(name, None) for name in ("channel_scale", "channel_shift")]
    return QuantizedLinear(weight, bias, quantize_input, *channels, weight_format)


def _describe_layer(module: QuantizedLinear | QuantizedConvolution) -> tuple[Description, Tensors]:
    kind = "linear" if isinstance(module, QuantizedLinear) else "convolution"
    described, tensors = _describe_operands(kind, module, ("quantize_input",))
    described["weight"], weight = _describe_weight(module.weight, module.weight_format)
    tensors |= weight
    for name in ("bias", "channel_scale", "channel_shift"):
        if getattr(module, name, None) is not None:
            tensors[name] = getattr(module, name)
    return described, tensors


def _describe_weight(weight: Tensor, of: WeightFormat | None) -> tuple[Description | None, Tensors]:
    if of is None:
        return None, {"weight": weight}
    codes = of.codes(weight)
    if not torch.equal(of.values(codes).view_as(weight), weight):
        raise LampQError("weights are not the values of their codes")
    tensors = {
        "weight_packed": pack(codes + _lowest(of), of.bits),
        "weight_scale": of.scale,
        "weight_shape": torch.tensor(weight.shape),
    }
    if of.zero_point is not None:
        tensors["weight_zero_point"] = of.zero_point.to(torch.int32)
    if of.column_group is not None:
        tensors["weight_g_idx"] = of.column_group.to(torch.int32)
    return {"format": of.kind.name, "bits": of.bits}, tensors


def _lowest(of: WeightFormat) -> int:
    """What is added to codes so that the lowest is 0."""
    return 2 ** (of.bits - 1) if of.kind is SymmetricQuantizer else 0


def _rebuild_weight(described: Description | None, tensors: Tensors) -> tuple[Tensor, WeightFormat | None]:
    if described is None:
        return _take(tensors, "weight"), None
    if described["format"] not in WEIGHT_FORMATS:
        raise LampQError(f"has weights in the format {described['format']!r}, which this version does not know")
    shape = tuple(_take(tensors, "weight_shape").tolist())
    scale, zero_point = _take(tensors, "weight_scale"), tensors.pop("weight_zero_point", None)
    if described["format"] == "affine" and zero_point is None:
        raise LampQError("lacks weight_zero_point")
    of = WeightFormat(
        FORMATS[described["format"]],
        described["bits"],
        scale,
        None if zero_point is None else zero_point.to(scale.dtype),
        tensors.pop("weight_g_idx", None),
    )
    columns = torch.Size(shape[1:]).numel()
    codes = unpack(_take(tensors, "weight_packed"), of.bits, columns)
    if len(codes) != shape[0]:
        raise LampQError(f"has {len(codes)} rows of codes for weights {list(shape)}")
    return of.values(codes - _lowest(of)).view(shape), of


def _describe_operands(kind: str, module: nn.Module, names: tuple[str, ...]) -> tuple[Description, Tensors]:
    described: Description = {"kind": kind}
    tensors: Tensors = {}
    for name in names:
        number_format = getattr(module, name)
        described[name] = None
        if number_format is not None:
            described[name], found = _describe_format(number_format, f"{name}.")
            tensors |= found
    return described, tensors


def _rebuild_operands(described: Description, tensors: Tensors, names: tuple[str, ...]) -> list[nn.Module | None]:
    return [
        None if described[name] is None else _rebuild_format(described[name], tensors, f"{name}.") for name in names
    ]


def _describe_format(number_format: NumberFormat, prefix: str) -> tuple[Description, Tensors]:
    constants = {name: getattr(number_format, name) for name in number_format.constants}
    tensors = {f"{prefix}{name}": getattr(number_format, name) for name in number_format.tensors}
    return {"format": number_format.name, **constants}, tensors


def _rebuild_format(described: Description, tensors: Tensors, prefix: str) -> NumberFormat:
    values = dict(described)
    kind = FORMATS.get(values.pop("format", None))
    if kind is None or set(values) != set(kind.constants):
        raise LampQError(f"has the number format {described}, which this version does not know")
    return kind(**{name: _take(tensors, f"{prefix}{name}") for name in kind.tensors}, **values)


def _take(tensors: Tensors, name: str) -> Tensor:
    if name not in tensors:
        raise LampQError(f"lacks {name}")
    return tensors.pop(name)
