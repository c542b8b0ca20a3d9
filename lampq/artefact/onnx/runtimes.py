"""Exported files in the runtimes they are for: what they answer, and which codes their activations have."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lampq.artefact.onnx import need
from lampq.artefact.onnx.codes import Codes, codes_in, formats, tensor_names
from lampq.models.adapter import ModelAdapter

Run = Callable[[Tensor], Tensor]
"""Images ``[images, channels, height, width]`` to logits ``[images, classes]``, or to the numbers of all maps."""


def network(path: Path) -> Run:
    """A file run by the runtime that it is for: OpenVINO where it ends in ``.xml``, else onnxruntime.

    Raises:
        LampQError: the runtime is not installed.
    """
    return openvino_network(path) if path.suffix == ".xml" else onnxruntime_network(path)


def graph_codes(path: Path, quantized: ModelAdapter) -> Callable[[Tensor], Codes]:
    """The codes of activations in a file, as the runtime that it is for computes them.

    The tensors that hold them are made outputs of a copy in memory; the file stays as it is.

    Args:
        quantized: the network that was written to the file.

    Raises:
        LampQError: the runtime is not installed.
    """
    names, of = tensor_names(quantized), formats(quantized)
    wanted = [name for parts in names.values() for name in parts]
    answer = _openvino_tensors(path, wanted) if path.suffix == ".xml" else _onnxruntime_tensors(path, wanted)

    def codes(images: Tensor) -> Codes:
        tensors = answer(images)
        return {name: codes_in(of[name], [tensors[part] for part in parts]) for name, parts in names.items()}

    return codes


def onnxruntime_network(path: Path) -> Run:
    """An ONNX file run by onnxruntime, on as many threads as PyTorch has.

    Raises:
        LampQError: onnxruntime is not installed.
    """
    session = _session(path.read_bytes())
    return lambda images: _in_a_row(session.run(None, {"images": images.numpy()}))


def openvino_network(path: Path) -> Run:
    """A file run by OpenVINO in float32 (by default it takes bfloat16 where the processor has it).

    Raises:
        LampQError: OpenVINO is not installed.
    """
    compiled = _compiled(path, [])
    return lambda images: _in_a_row(list(compiled(images.numpy()).values()))


def _in_a_row(outputs: list[np.ndarray]) -> Tensor:
    return torch.cat([torch.from_numpy(output.copy()).flatten(1) for output in outputs], 1)


def _onnxruntime_tensors(path: Path, names: list[str]) -> Callable[[Tensor], dict[str, Tensor]]:
    import onnx

    model = onnx.load_model_from_string(path.read_bytes())
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = _session(model.SerializeToString())

    def run(images: Tensor) -> dict[str, Tensor]:
        return dict(zip(names, map(torch.from_numpy, session.run(names, {"images": images.numpy()})), strict=True))

    return run


def _openvino_tensors(path: Path, names: list[str]) -> Callable[[Tensor], dict[str, Tensor]]:
    compiled = _compiled(path, names)

    def run(images: Tensor) -> dict[str, Tensor]:
        answer = compiled(images.numpy())
        return {name: torch.from_numpy(answer[name].copy()) for name in names}

    return run


def _session(content: bytes):
    need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _compiled(path: Path, outputs: list[str]):
    need("openvino")
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    if outputs:
        model.add_outputs(outputs)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return core.compile_model(model, "CPU", settings)
