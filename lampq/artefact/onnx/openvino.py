"""The quantized model as OpenVINO's own files."""

from pathlib import Path
from typing import Any

from lampq.artefact.onnx import need
from lampq.artefact.onnx.export import export_onnx
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter


def export_openvino(adapter: ModelAdapter, path: str | Path, about: dict[str, Any] | None = None) -> None:
    """Write ``PATH.xml`` and ``PATH.bin``: the ONNX graph as OpenVINO reads it, weights still packed.

    Raises:
        LampQError: see `export_onnx`; OpenVINO is not installed; a path that does not end in ``.xml``.
    """
    path = Path(path)
    if path.suffix != ".xml":
        raise LampQError(f"--out {path}: OpenVINO's file ends in .xml; its weights are written beside it")
    need("openvino")
    file = path.with_suffix(".onnx.tmp")
    try:
        export_onnx(adapter, file, about=about)
        convert(file, path)
    finally:
        file.unlink(missing_ok=True)


def convert(file: Path, path: Path) -> Path:
    """Write an ONNX file as OpenVINO's two; the path of the first."""
    need("openvino")
    import openvino

    openvino.serialize(openvino.Core().read_model(file.read_bytes()), str(path), str(path.with_suffix(".bin")))
    return path
