"""The exported file computes what the simulation does, in other runtimes and without PyTorch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from lampq.artefact.onnx.checking import check_export, onnxruntime_network, openvino_network
from lampq.errors import LampQError
from tests.contract.test_every_base_quantizer import quantizer
from tests.contract.test_every_saved_model import mixed
from tests.small_models import images, search_over, swin_adapter, vit_adapter

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from lampq.artefact.onnx.export import export_onnx

METHODS = {
    "adalog": vit_adapter,
    "erq": vit_adapter,
    "ptq4vit": vit_adapter,
    "psaq_vit": vit_adapter,
    "rtn": swin_adapter,
}
"""Between them every number format, every kind of site, and groups of rows and of columns."""


def quantized(name, root):
    method = quantizer(name)
    workbench = search_over(METHODS[name](), root, base_quantizer=method)
    plan = mixed(workbench.adapter, method)
    return workbench.quantized_model().apply(plan).adapter


@pytest.mark.parametrize("name", METHODS)
def test_other_runtimes_find_the_same_classes(name, tmp_path):
    adapter, path = quantized(name, tmp_path), tmp_path / "model.onnx"
    x = images(adapter, 24, seed=5)
    with torch.no_grad():
        expected = adapter.run(x)
    export_onnx(adapter, path, 25 if name == "adalog" else 18)
    networks = [onnxruntime_network(path)]
    if name != "adalog":  # OpenVINO has no type of 2 bits
        pytest.importorskip("openvino")
        networks.append(openvino_network(path))
    for network in networks:
        near = (network(x) - expected).abs().amax(1) <= 1e-4 * expected.abs().max()
        assert near.float().mean() >= 0.75  # a last bit may flip a code, which changes an image as a whole
        assert (network(x).argmax(1) == expected.argmax(1)).float().mean() >= 0.9
    assert torch.equal(networks[0](x[:1]).argmax(1), networks[0](x).argmax(1)[:1])  # any number of images


def test_a_file_that_computes_something_else_is_not_kept(tmp_path):
    adapter, path = quantized("rtn", tmp_path), tmp_path / "model.onnx"
    export_onnx(adapter, path)
    for parameter in adapter.network.parameters():
        parameter.mul_(-2)
    with pytest.raises(LampQError, match="not kept, --force keeps it"):
        check_export(adapter, path, images(adapter, 16), force=False)
    assert not path.exists()


def test_a_stranger_needs_no_pytorch(tmp_path):
    adapter, path = quantized("rtn", tmp_path), tmp_path / "model.onnx"
    names = [f"class {number}" for number in range(adapter.classes)]
    about = {"data_config": {"mean": [0.5] * 3, "std": [0.5] * 3}, "class_names": names}
    export_onnx(adapter, path, about=about)
    Image.new("RGB", (60, 48), (200, 30, 90)).save(tmp_path / "image.png")
    page = (Path(__file__).resolve().parents[3] / "docs" / "export.md").read_text()
    script = re.findall(r"```python\n(.*?)```", page, re.S)[-1]
    without = "import sys; sys.modules['torch'] = None\n"
    command = [sys.executable, "-c", without + script, str(path), str(tmp_path / "image.png")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    pixels = torch.tensor([200, 30, 90]).view(1, 3, 1, 1) / 255
    x = ((pixels - 0.5) / 0.5).expand(1, *adapter.input_size)
    assert said == names[int(onnxruntime_network(path)(x.contiguous()).argmax())]
