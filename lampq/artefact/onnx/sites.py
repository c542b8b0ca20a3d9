"""What stands at a quantized site in ONNX: operators that every runtime gets right.

- Weights are the dense bit stream of the file, unpacked in the graph by division and remainder (shifts are silently
  wrong in one of the runtimes); with opset 25, 2- and 4-bit codes have a type of their own.
- Uniform inputs become unsigned 8-bit codes, multiplied by `MatMulInteger` (unsigned times unsigned, which is exact
  where signed codes of 8 bits saturate on some processors).
- Products inside attention are of whole numbers in floating point, which is exact as long as sums stay below 2^24.
- Codes of logarithmic formats are corrected by the format's own thresholds, then read from its table.
"""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from lampq.artefact.onnx.graph import FLOAT, INT32, INT64, UINT8, Graph
from lampq.artefact.onnx.thresholds import logarithmic_thresholds
from lampq.artefact.packing import pack
from lampq.errors import LampQError
from lampq.number_formats.adalog import BASE_DENOMINATOR, SMALLEST_RATIO, AdaLogQuantizer
from lampq.number_formats.base import NumberFormat
from lampq.number_formats.log_sqrt2 import LogSqrt2Quantizer
from lampq.number_formats.twin_uniform import PostGELUQuantizer, ProbabilityQuantizer
from lampq.number_formats.uniform import AffineQuantizer, SymmetricQuantizer
from lampq.number_formats.weights import WeightFormat
from lampq.quantized_modules.convolution import QuantizedConvolution
from lampq.quantized_modules.linear import QuantizedLinear
from lampq.quantized_modules.matmul import QuantizedMatMul

NATIVE = {2: "UINT2", 4: "UINT4"}
"""Types of codes, from opset 25 on."""


def write_site(graph: Graph, module: nn.Module, inputs: list[str], output: str, opset: int) -> None:
    """Write a site's operators.

    Args:
        inputs: names of what it is fed.
        output: name of what it gives.
        opset: 18 to 25.

    Raises:
        LampQError: a module or number format that has no such form.
    """
    if isinstance(module, QuantizedLinear):
        _linear(graph, module, inputs[0], output, opset)
    elif isinstance(module, QuantizedConvolution):
        _convolution(graph, module, inputs[0], output, opset)
    elif isinstance(module, QuantizedMatMul):
        _product(graph, module, *inputs, output)
    elif isinstance(module, NumberFormat):
        graph.op("Identity", _values(graph, module, inputs[0], "tensor"), output=output)
    else:
        raise LampQError(f"{type(module).__name__} has no form in ONNX")


def _linear(graph: Graph, layer: QuantizedLinear, x: str, output: str, opset: int) -> None:
    if layer.channel_scale is not None:
        x = graph.op("Div", x, graph.constant(layer.channel_scale.numpy()))
        x = graph.op("Sub", x, graph.constant(layer.channel_shift.numpy()))
    if integer_product(layer):
        of, input_format = layer.weight_format, layer.quantize_input
        codes = unsigned_codes(graph, input_format, x, "input")
        weights = graph.op("Transpose", weight_codes(graph, layer, opset, UINT8), perm=[1, 0])
        zero = graph.constant(_zero_point(input_format).reshape(()), np.uint8)
        zeros = np.broadcast_to(_weight_zero_point(of), (len(layer.weight),))
        out = graph.cast(graph.op("MatMulInteger", codes, weights, zero, graph.constant(zeros, np.uint8)), FLOAT)
        scale = np.broadcast_to(_rows(of.scale, len(layer.weight))[:, 0] * input_format.scale.numpy(), zeros.shape)
        out = graph.op("Mul", out, graph.constant(scale))
    else:
        weights = graph.op("Transpose", _weights(graph, layer, opset), perm=[1, 0])
        out = graph.op("MatMul", _values(graph, layer.quantize_input, x, "input"), weights)
    bias = np.zeros(len(layer.weight)) if layer.bias is None else layer.bias.numpy()
    graph.op("Add", out, graph.constant(bias), output=output)


def integer_product(layer: QuantizedLinear) -> bool:
    """Whether a linear layer is a product of unsigned 8-bit codes: both operands uniform, zero points among them."""
    of, input_format = layer.weight_format, layer.quantize_input
    if of is None or of.column_group is not None or of.kind not in (AffineQuantizer, SymmetricQuantizer):
        return False
    if not isinstance(input_format, AffineQuantizer | SymmetricQuantizer) or input_format.scale.numel() != 1:
        return False
    zeros = np.concatenate([_zero_point(input_format).ravel(), _weight_zero_point(of)])
    whole = np.array_equal(zeros, zeros.round()) and zeros.min() >= 0 and zeros.max() <= 255
    return whole and max(of.bits, input_format.bits) <= 8


def _convolution(graph: Graph, layer: QuantizedConvolution, x: str, output: str, opset: int) -> None:
    if layer.groups != 1:
        raise LampQError("a convolution with groups has no form in ONNX here")
    shape = graph.constant(layer.weight.shape, np.int64)
    weights = graph.op("Reshape", _weights(graph, layer, opset), shape)
    inputs = [_values(graph, layer.quantize_input, x, "input"), weights]
    if layer.bias is not None:
        inputs.append(graph.constant(layer.bias.numpy()))
    attributes = {"strides": layer.stride, "dilations": layer.dilation, "pads": [*layer.padding, *layer.padding]}
    graph.op("Conv", *inputs, output=output, **{name: list(values) for name, values in attributes.items()})


def _product(graph: Graph, module: QuantizedMatMul, a: str, b: str, output: str) -> None:
    numbers, scale = [], np.ones((), np.float32)
    for number_format, x, operand in ((module.quantize_a, a, "a"), (module.quantize_b, b, "b")):
        if isinstance(number_format, AffineQuantizer | SymmetricQuantizer):
            numbers.append(_whole_numbers(graph, number_format, x, operand))
            scale = scale * number_format.scale.numpy()
        else:
            numbers.append(_values(graph, number_format, x, operand))
    out = graph.op("Mul", graph.op("MatMul", *numbers), graph.constant(scale))
    graph.op("Identity", _values(graph, module.quantize_output, out, "output"), output=output)


def unsigned_codes(graph: Graph, number_format: NumberFormat, x: str, operand: str) -> str:
    """Codes of a uniform format with one scale, from 0 to 2^bits - 1, as uint8."""
    scale = graph.constant(number_format.scale.numpy().reshape(()))
    zero_point, named = graph.constant(_zero_point(number_format).reshape(()), np.uint8), graph.codes(operand)
    if number_format.bits == 8:
        return graph.op("QuantizeLinear", x, scale, zero_point, output=named)
    codes = graph.op("QuantizeLinear", x, scale, zero_point)
    return graph.op("Min", codes, graph.constant(2**number_format.bits - 1, np.uint8), output=named)


def _whole_numbers(graph: Graph, number_format: NumberFormat, x: str, operand: str) -> str:
    """Codes less the zero point, in floating point."""
    affine = isinstance(number_format, AffineQuantizer)
    zero = number_format.zero_point.numpy() if affine else np.float32(0)
    lowest = 0 if affine else -(2 ** (number_format.bits - 1))
    codes = graph.op("Round", graph.op("Div", x, graph.constant(number_format.scale.numpy())))
    if affine:
        codes = graph.op("Add", codes, graph.constant(zero))
    ends = graph.constant(lowest), graph.constant(lowest + 2**number_format.bits - 1)
    codes = graph.op("Clip", codes, *ends, output=graph.codes(operand))
    return graph.op("Sub", codes, graph.constant(zero)) if affine else codes


def _values(graph: Graph, number_format: NumberFormat | None, x: str, operand: str) -> str:
    """What a format makes of an input, in floating point."""
    if number_format is None:
        return x
    if isinstance(number_format, AffineQuantizer | SymmetricQuantizer):
        numbers = _whole_numbers(graph, number_format, x, operand)
        return graph.op("Mul", numbers, graph.constant(number_format.scale.numpy()))
    if isinstance(number_format, AdaLogQuantizer | LogSqrt2Quantizer):
        return _logarithmic(graph, number_format, x, operand)
    if isinstance(number_format, PostGELUQuantizer):
        half = 2 ** (number_format.bits - 1)
        negative = float(number_format.dequantize(torch.tensor([-1], dtype=torch.int32)).neg())
        scales = ((number_format.scale.numpy(), 0, half - 1), (np.float32(negative), -half, 0))
        return graph.op("Add", *(_steps(graph, x, *of, graph.codes(operand, part)) for part, of in enumerate(scales)))
    if isinstance(number_format, ProbabilityQuantizer) and not number_format.overlapping:
        return _probabilities(graph, number_format, x, operand)
    raise LampQError(f"the number format {number_format.name} has no form in ONNX")


def _steps(graph: Graph, x: str, scale: np.ndarray, low: int, high: int, named: str) -> str:
    rounded = graph.op("Round", graph.op("Div", x, graph.constant(scale)))
    codes = graph.op("Clip", rounded, graph.constant(low), graph.constant(high), output=named)
    return graph.op("Mul", codes, graph.constant(scale))


def _probabilities(graph: Graph, number_format: ProbabilityQuantizer, x: str, operand: str) -> str:
    last, split = 2 ** (number_format.bits - 1) - 1, number_format.split.numpy().reshape(())
    ends = graph.constant(0), graph.constant(last)
    whole, boundary = graph.constant(last), graph.constant(split)
    low = graph.op("Round", graph.op("Mul", x, graph.constant(last / split)))
    high = graph.op("Round", graph.op("Mul", x, whole))
    low, high = (graph.op("Clip", c, *ends, output=graph.codes(operand, part)) for part, c in enumerate((low, high)))
    low = graph.op("Mul", low, graph.constant(split / last))
    high = graph.op("Max", graph.op("Div", high, whole), boundary)
    return graph.op("Where", graph.op("Less", x, boundary, output=graph.codes(operand, 2)), low, high)


def _logarithmic(graph: Graph, number_format: AdaLogQuantizer | LogSqrt2Quantizer, x: str, operand: str) -> str:
    """A first code by the logarithm, which no two runtimes round alike, one step up or down by the thresholds, then the
    value from the table."""
    shift = number_format.shift if isinstance(number_format, AdaLogQuantizer) else 0.0
    scale = float(number_format.scale)
    codes, begins = logarithmic_thresholds(number_format)
    steps = len(begins)
    base = float(number_format.log_base) / BASE_DENOMINATOR if isinstance(number_format, AdaLogQuantizer) else 0.5
    ratio = graph.op("Div", graph.op("Add", x, graph.constant(shift)), graph.constant(scale))
    ratio = graph.op("Clip", ratio, graph.constant(SMALLEST_RATIO), graph.constant(1))
    guess = graph.op("Round", graph.op("Mul", graph.op("Log", ratio), graph.constant(-1 / (base * np.log(2)))))
    # Ranks of the codes in the order of rising inputs; codes that no input gets are passed over.
    rank_of = np.searchsorted(-codes.numpy(), -np.arange(int(codes.max()) + 1)).clip(0, steps)
    guess = graph.op("Clip", guess, graph.constant(0), graph.constant(int(codes.max())))
    rank = graph.op("Gather", graph.constant(rank_of, np.int64), graph.cast(guess, INT64))
    upper = graph.constant(np.append(begins.numpy(), np.inf))
    lower = graph.constant(np.insert(begins.numpy(), 0, -np.inf))
    up = graph.cast(graph.op("GreaterOrEqual", x, graph.op("Gather", upper, rank)), INT64)
    down = graph.cast(graph.op("Less", x, graph.op("Gather", lower, rank)), INT64)
    rank = graph.op("Sub", graph.op("Add", rank, up), down, output=graph.codes(operand))
    return graph.op("Gather", graph.constant(number_format.dequantize(codes).numpy()), rank)


def weight_codes(graph: Graph, layer: QuantizedLinear | QuantizedConvolution, opset: int, kind: int) -> str:
    """Unsigned codes of a layer's weights ``[out channels, columns]``, unpacked in the graph."""
    of, weight = layer.weight_format, layer.weight.detach().flatten(1)
    codes = of.codes(weight) + (2 ** (of.bits - 1) if of.kind is SymmetricQuantizer else 0)
    rows, columns = codes.shape
    if of.bits == 8:
        return _as(graph, graph.constant(codes.numpy(), np.uint8), kind, UINT8)
    if opset >= 25 and of.bits in NATIVE:
        return graph.cast(graph.raw_constant(_native(codes, of.bits)), kind)
    packed = pack(codes, of.bits).numpy().astype("<i4").view(np.uint8)
    octets = graph.cast(graph.constant(packed, np.uint8), INT32)
    octets = graph.op("Unsqueeze", octets, graph.constant([2], np.int64))
    bits = graph.op(
        "Mod", graph.op("Div", octets, graph.constant(2 ** np.arange(8), np.int32)), graph.constant(2, np.int32)
    )
    bits = graph.op("Reshape", bits, graph.constant([rows, -1], np.int64))
    ends = [graph.constant([value], np.int64) for value in (0, columns * of.bits, 1)]
    bits = graph.op("Slice", bits, *ends)
    bits = graph.op("Reshape", bits, graph.constant([rows, columns, of.bits], np.int64))
    weighed = graph.op("Mul", bits, graph.constant(2 ** np.arange(of.bits), np.int32))
    summed = graph.op("ReduceSum", weighed, graph.constant([2], np.int64), keepdims=0)
    return _as(graph, summed, kind, INT32)


def _weights(graph: Graph, layer: QuantizedLinear | QuantizedConvolution, opset: int) -> str:
    """Weights ``[out channels, columns]`` in floating point."""
    of, weight = layer.weight_format, layer.weight.detach().flatten(1)
    if of is None:
        return graph.constant(weight.numpy())
    codes = weight_codes(graph, layer, opset, FLOAT)
    if of.kind not in (AffineQuantizer, SymmetricQuantizer):  # one bit: a sign
        codes = graph.op("Sub", graph.op("Mul", codes, graph.constant(2)), graph.constant(1))
    else:
        codes = graph.op("Sub", codes, _spread(graph, of, torch.tensor(_weight_zero_points(of)), len(weight)))
    return graph.op("Mul", codes, _spread(graph, of, of.scale, len(weight)))


def _spread(graph: Graph, of: WeightFormat, parameter: Tensor, rows: int) -> str:
    name = graph.constant(_rows(parameter, rows))
    if of.column_group is None:
        return name
    return graph.op("Gather", name, graph.constant(of.column_group.numpy(), np.int64), axis=1)


def _rows(parameter: Tensor, rows: int) -> np.ndarray:
    """A parameter ``[row groups, column groups]`` for every row."""
    return (
        parameter if len(parameter) in (1, rows) else parameter.repeat_interleave(rows // len(parameter), 0)
    ).numpy()


def _zero_point(number_format: AffineQuantizer | SymmetricQuantizer) -> np.ndarray:
    """The code of zero, of unsigned codes."""
    if isinstance(number_format, AffineQuantizer):
        return number_format.zero_point.numpy()
    return np.full((), 2 ** (number_format.bits - 1), np.float32)


def _weight_zero_points(of: WeightFormat) -> np.ndarray:
    """The code of zero, of unsigned codes, ``[row groups, column groups]``."""
    if of.zero_point is not None:
        return of.zero_point.numpy()
    return np.full(tuple(of.scale.shape), 2.0 ** (of.bits - 1), np.float32)


def _weight_zero_point(of: WeightFormat) -> np.ndarray:
    """The same for one column group, ``[row groups]`` or, where these are several rows each, one (they are alike)."""
    zeros = _weight_zero_points(of)[:, 0]
    return zeros[:1] if of.zero_point is None else zeros


def _native(codes: Tensor, bits: int) -> onnx.TensorProto:
    """Codes as ONNX's own type: as many to an octet as fit, the first in the lowest bits."""
    flat = codes.numpy().astype(np.uint8).ravel()
    together = 8 // bits
    flat = np.pad(flat, (0, -len(flat) % together)).reshape(-1, together)
    octets = (flat << (np.arange(together) * bits)).sum(1).astype(np.uint8)
    kind = getattr(TensorProto, NATIVE[bits])
    return helper.make_tensor("codes", kind, list(codes.shape), octets.tobytes(), raw=True)


def _as(graph: Graph, x: str, kind: int, has: int) -> str:
    return x if kind == has else graph.cast(x, kind)
