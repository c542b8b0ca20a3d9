"""Heads of a detector's backbone are rotated; what it finds stays, and it is saved and loaded."""

import pytest
import torch

from lampq.artefact.loading import load
from lampq.artefact.saving import save
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.transform.hadamard import Hadamard

pytest.importorskip("mmdet")

from lampq.models.embedded.embedded_detector import EmbeddedDetector
from tests.made_up_scenes import detection_search
from tests.small_detectors import detector_images


@pytest.fixture(scope="module")
def adapters():
    """As it comes, and rotated."""
    adapter = EmbeddedDetector("shapes_mask_rcnn").build(torch.device("cpu"))
    return adapter, Hadamard().apply(adapter)


def test_what_it_finds_stays(adapters):
    adapter, rotated = adapters
    pictures = detector_images(2)
    for expected, found in zip(adapter.run(pictures), rotated.run(pictures), strict=True):
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-4)
    last = adapter.segments - 1
    for expected, found in zip(*(of.run(pictures, stop=last) for of in adapters), strict=True):
        torch.testing.assert_close(found.x, expected.x, rtol=1e-4, atol=1e-4 * float(expected.x.abs().max()))
    changed = [a.module(s.name).weight for s in adapter.sites for a in adapters if s.type == "qkv"]
    assert not any(torch.allclose(a, b, atol=1e-3) for a, b in zip(changed[::2], changed[1::2], strict=True))


def test_a_loaded_one_finds_what_was_saved(adapters, tmp_path):
    adapter = adapters[1]
    search = detection_search(adapter, tmp_path, calibration_images=1)
    bits = {s.name: Bits(None if s.is_matmul else 6, 6) for s in adapter.sites}
    plan = BitPlan.full_precision(adapter.sites).with_bits(bits)
    search.build(plan)
    quantized = search.quantized_model().apply(plan).adapter
    save(tmp_path / "model", adapter, quantized, plan, {})
    pictures = detector_images(1)
    (expected,), (found,) = quantized.run(pictures), load(tmp_path / "model")(pictures)
    assert torch.equal(found.boxes, expected.boxes) and torch.equal(found.scores, expected.scores)
