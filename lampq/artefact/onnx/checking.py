"""Whether an exported file computes what the simulation does, and other runtimes as networks."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lampq.artefact.onnx import need
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter

AGREEMENT = 0.995
"""Share of images whose first class has to be the simulation's."""


def onnxruntime_network(path: Path) -> Callable[[Tensor], Tensor]:
    """An ONNX file run by onnxruntime, on as many threads as PyTorch has.

    Raises:
        LampQError: onnxruntime is not installed.
    """
    need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def openvino_network(path: Path) -> Callable[[Tensor], Tensor]:
    """A file run by OpenVINO in float32 (by default it takes bfloat16 where the processor has it).

    Raises:
        LampQError: OpenVINO is not installed.
    """
    need("openvino")
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    return lambda images: torch.from_numpy(compiled(images.numpy())[0].copy())


def check_export(quantized: ModelAdapter, path: Path, images: Tensor, force: bool) -> str:
    """Compare a file with the simulation on real images.

    Args:
        quantized: the simulation.
        images: ``[images, channels, height, width]``.
        force: say what differs instead of refusing it.

    Returns:
        A line with the agreement.

    Raises:
        LampQError: classes differ on more than one image of 200; the file is removed.
    """
    run = onnxruntime_network(path) if path.suffix == ".onnx" else openvino_network(path)
    with torch.inference_mode():
        expected, found = quantized.run(images), run(images)
    agreement = float((expected.argmax(1) == found.argmax(1)).float().mean())
    difference = float((expected - found).abs().max())
    told = (
        f"{path}: {path.stat().st_size:,} bytes; on {len(images)} calibration images the class is the simulation's on "
        f"{100 * agreement:.1f} %, logits differ by {difference:.2e} at most"
    )
    if agreement < AGREEMENT and not force:
        path.unlink()
        raise LampQError(f"{told}; not kept, --force keeps it")
    return told
