"""Nodes and constants of an ONNX graph, written one operator a line."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, UINT8, INT32, INT64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64


class Graph:
    """Nodes that take the place of one site.

    Args:
        prefix: of the names of everything inside, which no other site has.

    Attributes:
        nodes, constants: what has been written so far.
    """

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix = prefix

    def constant(self, values: Any, kind: type = np.float32) -> str:
        """A constant's name."""
        name = f"{self._prefix}/c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(np.asarray(values, dtype=kind)), name))
        return name

    def raw_constant(self, tensor: onnx.TensorProto) -> str:
        """The same for a tensor that is made already."""
        tensor.name = f"{self._prefix}/c{len(self.constants)}"
        self.constants.append(tensor)
        return tensor.name

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Write a node with one output; its name."""
        output = output or f"{self._prefix}/{len(self.nodes)}_{kind}"
        self.nodes.append(
            helper.make_node(kind, inputs, [output], name=f"{self._prefix}/n{len(self.nodes)}", **attributes)
        )
        return output

    def codes(self, operand: str, part: int = 0) -> str:
        """What the codes of a quantized activation are called (`lampq.artefact.onnx.codes`)."""
        return f"{self._prefix}/{operand}.codes{part}"

    def cast(self, x: str, to: int) -> str:
        return self.op("Cast", x, to=to)
