"""A detector is saved and loaded; its backbone, neck and heads run in integers, its backbone in other runtimes."""

import re

import pytest
import torch

from lampq.artefact.integer import to_integers
from lampq.artefact.loading import load, load_adapter
from lampq.artefact.onnx.runtimes import network
from lampq.artefact.saving import save
from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits

pytest.importorskip("mmdet")

from lampq.models.detection.backbone import DetectorBackbone
from lampq.models.embedded.embedded_detector import EmbeddedDetector
from tests.made_up_scenes import detection_search
from tests.small_detectors import detector_adapter, detector_images


def test_a_loaded_detector_finds_what_the_simulated_one_finds(tmp_path):
    adapter = EmbeddedDetector("shapes_mask_rcnn").build(torch.device("cpu"))
    search = detection_search(adapter, tmp_path, calibration_images=1)
    bits = {s.name: Bits(None if s.is_matmul else 6, 6) for s in adapter.sites}
    plan = BitPlan.full_precision(adapter.sites).with_bits(bits)
    search.build(plan)
    quantized = search.quantized_model().apply(plan).adapter
    save(tmp_path / "model", adapter, quantized, plan, {})
    pictures = detector_images(1)
    (expected,) = quantized.run(pictures)
    (found,) = load(tmp_path / "model")(pictures)
    assert torch.equal(found.boxes, expected.boxes) and torch.equal(found.scores, expected.scores)

    loaded, _ = load_adapter(tmp_path / "model")
    assert to_integers(loaded) == ["backbone.patch_embed.projection"]
    (in_integers,) = loaded.run(pictures)
    assert len(in_integers.scores) == pytest.approx(len(expected.scores), abs=2)


def test_the_backbone_is_exported(tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from lampq.artefact.onnx.checking import check_export
    from lampq.artefact.onnx.export import export_onnx

    adapter = detector_adapter()
    search = detection_search(adapter, tmp_path, calibration_images=1)
    bits = {s.name: Bits(None if s.is_matmul else 6, 6) for s in adapter.sites if s.name.startswith("backbone.")}
    plan = BitPlan.full_precision(adapter.sites).with_bits(bits)
    search.build(plan)
    detector = search.quantized_model().apply(plan).adapter
    detector.input_size = (3, 64, 96)
    path, backbone = tmp_path / "backbone.onnx", DetectorBackbone.of(detector)
    with pytest.raises(LampQError, match="not exported as a whole"):
        export_onnx(detector, path)
    images = backbone.fitted(detector_images(2))
    assert images.shape == (2, 3, 64, 96)
    export_onnx(backbone, path)
    told = check_export(backbone, path, images, force=False)
    assert re.search(r"on 2 calibration images 0.\d+ % of the activations' codes differ, features differ by", told)
    answer = network(path)(images[:1])
    torch.testing.assert_close(answer, backbone.run(images[:1]), rtol=0, atol=1e-3)
    assert answer.shape[1] == sum(len(m.flatten()) for m in detector.network.backbone(images[:1]))
