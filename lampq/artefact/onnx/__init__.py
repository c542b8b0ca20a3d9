"""The quantized model as one ONNX file that other runtimes run."""

from importlib.util import find_spec

from lampq.errors import LampQError

PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino")


def need(*packages: str) -> None:
    """See that packages of the extra ``export`` are installed.

    Raises:
        LampQError: names the first one that is not.
    """
    for package in packages:
        if find_spec(package) is None:
            raise LampQError(f"export needs the package {package}, which is not installed; pip install 'lampq[export]'")
