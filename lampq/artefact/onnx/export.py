"""From a quantized network to one ONNX file: the graph between sites is traced, what stands at sites is written."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from lampq.artefact.onnx.graph import Graph
from lampq.artefact.onnx.sites import write_site
from lampq.errors import LampQError
from lampq.models.adapter import InSegments, ModelAdapter
from lampq.models.detection.backbone import DetectorBackbone, Maps
from lampq.number_formats.base import NumberFormat
from lampq.quantized_modules.convolution import QuantizedConvolution
from lampq.quantized_modules.linear import QuantizedLinear
from lampq.quantized_modules.matmul import QuantizedMatMul
from lampq.storage.atomic_write import write_whole

OPSETS = (18, 25)
"""The lowest and the highest version of the operators that is written."""

DOMAIN = "lampq"
"""Of the operators that stand for sites until they are written out."""


def export_onnx(adapter: ModelAdapter, path: str | Path, opset: int = 18, about: dict[str, Any] | None = None) -> None:
    """Write a quantized classifier as ONNX: input ``images [batch, channels, height, width]``, output ``logits``. Or
    the backbone of a detector: one image as input, outputs ``features0`` and on, the finest map first.

    Args:
        adapter: the quantized model, on the CPU.
        path: the file.
        opset: 18, or 25 for native 2- and 4-bit types.
        about: metadata of the file (JSON-able), by key.

    Raises:
        LampQError: a whole detector, or a module that has no form in ONNX.
    """
    if adapter.task == "detection" and not isinstance(adapter, DetectorBackbone):
        raise LampQError(f"{adapter.name}: a detector is not exported as a whole; its backbone is")
    sites = {f"{number}": adapter.module(site.name) for number, site in enumerate(adapter.sites)}
    traced = _traced(adapter, opset)
    nodes: list[onnx.NodeProto] = []
    for node in traced.graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        number = next(attribute.i for attribute in node.attribute if attribute.name == "number")
        graph = Graph(f"site{number}")
        write_site(graph, sites[str(number)], list(node.input), node.output[0], opset)
        nodes += graph.nodes
        traced.graph.initializer.extend(graph.constants)
    del traced.graph.node[:]
    traced.graph.node.extend(nodes)
    for part in (*traced.graph.node, *traced.graph.value_info, *traced.graph.input, *traced.graph.output, traced.graph):
        part.ClearField("metadata_props")  # where in PyTorch it comes from, a kilobyte a node
        part.ClearField("doc_string")
    del traced.graph.value_info[:]
    versions = [entry for entry in traced.opset_import if entry.domain == ""]
    del traced.opset_import[:]
    traced.opset_import.extend(versions)
    helper.set_model_props(traced, {key: json.dumps(value) for key, value in (about or {}).items()})
    traced.ir_version = min(traced.ir_version, 10 if opset < 25 else 13)
    onnx.checker.check_model(traced)
    write_whole(Path(path), lambda temporary: temporary.write_bytes(traced.SerializeToString()))


class Stand(nn.Module):
    """Stands for a site while the rest is traced: an operator with the site's number.

    Args:
        number: of the site.
        module: the quantized module.
    """

    def __init__(self, number: int, module: nn.Module) -> None:
        super().__init__()
        self.number, self.module = number, [module]

    def forward(self, *inputs: Tensor) -> Tensor:
        x, (module,) = inputs[0], self.module
        if isinstance(module, QuantizedMatMul):
            shape = [*x.shape[:-1], inputs[1].shape[-1]]
        elif isinstance(module, QuantizedLinear):
            shape = [*x.shape[:-1], len(module.weight)]
        elif isinstance(module, QuantizedConvolution):
            edges = zip(
                x.shape[2:], module.weight.shape[2:], module.stride, module.padding, module.dilation, strict=True
            )
            shape = [
                x.shape[0],
                len(module.weight),
                *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in edges),
            ]
        else:
            shape = list(x.shape)
        attributes = {"number": self.number}
        return torch.onnx.ops.symbolic(f"{DOMAIN}::Site", inputs, attributes, dtype=x.dtype, shape=shape, version=1)


def _traced(adapter: ModelAdapter, opset: int) -> onnx.ModelProto:
    twin = adapter.clone()
    for number, site in enumerate(adapter.sites):
        module = adapter.module(site.name)
        if isinstance(module, QuantizedLinear | QuantizedConvolution | QuantizedMatMul | NumberFormat):
            twin.replace_module(site.name, Stand(number, module))
    if isinstance(twin, DetectorBackbone):  # mmdet's windows are counted in Python: of one image
        network, batch, shapes = Maps(twin.network.backbone), 1, None
        outputs = [f"features{number}" for number in range(len(twin.network.backbone.out_indices))]
    else:
        network, batch, outputs = InSegments(twin) if twin.tensors else twin.network, 2, ["logits"]
        shapes = ({0: torch.export.Dim("batch", min=1, max=65536)},)
    example = torch.zeros(batch, *adapter.input_size)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            program = torch.onnx.export(
                network.eval(),
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=["images"],
                output_names=outputs,
                dynamic_shapes=shapes,
                optimize=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    return program.model_proto
