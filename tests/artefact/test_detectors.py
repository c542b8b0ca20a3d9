"""A detector is saved and loaded, and its backbone, neck and heads run in integers."""

import pytest
import torch

from lampq.artefact.integer import to_integers
from lampq.artefact.loading import load, load_adapter
from lampq.artefact.saving import save
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits

pytest.importorskip("mmdet")

from lampq.models.embedded.embedded_detector import EmbeddedDetector
from tests.made_up_scenes import detection_search
from tests.small_detectors import detector_images


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
