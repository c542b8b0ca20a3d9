"""The embedded detector: its weights, its card, and what it finds."""

import re
from importlib import resources
from pathlib import Path

import pytest
import torch

from experiments.train_embedded_detector import average_precision, batch_of
from lampq.datasets import shape_scenes, shapes_coco
from lampq.datasets.shape_scenes import VALIDATION_SEED, draw_scenes
from lampq.datasets.shapes_coco import ShapesCoco
from lampq.errors import LampQError
from lampq.models.checkpoints import read_weights
from lampq.models.detection.pictures import Images, ImageState
from lampq.models.embedded.detectors import build_embedded_detector
from lampq.models.embedded.embedded_detector import EmbeddedDetector

FOLDER = resources.files("lampq.models.embedded")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def adapter():
    return EmbeddedDetector("shapes_mask_rcnn").build(CPU)


@pytest.fixture(scope="module")
def original():
    """mmdet's own network with the embedded weights."""
    network = build_embedded_detector()
    network.load_state_dict(read_weights(str(FOLDER / "shapes_mask_rcnn.safetensors")), strict=True)
    network.eval()
    return network


def images_of(scenes):
    states = []
    for number, scene in enumerate(scenes):
        pixels, samples = batch_of([scene])
        meta = {**samples[0].metainfo, "img_id": number}
        states.append(ImageState(pixels[0], tuple(pixels.shape[2:]), meta))
    return Images(states)


def test_the_card_belongs_to_the_weights():
    card = (FOLDER / "shapes_mask_rcnn.md").read_text()
    assert f"revision {shape_scenes.REVISION}," in card and "seed 0" in card
    state = read_weights(str(FOLDER / "shapes_mask_rcnn.safetensors"))
    names = [name for name, _ in build_embedded_detector().named_parameters()]
    assert f"| parameters | {sum(state[name].numel() for name in names):,} |" in card
    assert all(torch.isfinite(value).all() for value in state.values())
    box, mask = map(float, re.search(r"AP of boxes.* \| ([\d.]+), ([\d.]+) \|", card).groups())
    assert 50 < mask < 95 and 50 < box < 95
    assert Path(str(FOLDER / "shapes_mask_rcnn.safetensors")).stat().st_size < 12e6


def test_it_finds_what_is_there(original):
    """Within the chance of 40 scenes, it is as precise as its card says."""
    card = (FOLDER / "shapes_mask_rcnn.md").read_text()
    stated = map(float, re.search(r"AP of boxes.* \| ([\d.]+), ([\d.]+) \|", card).groups())
    measured = average_precision(original, 40, VALIDATION_SEED)
    original.eval()
    assert all(abs(own - card) < 8 for own, card in zip(measured, stated, strict=True))


def test_the_adapter_finds_what_mmdet_finds(adapter, original):
    scenes = draw_scenes(3, VALIDATION_SEED)
    found = adapter.run(images_of(scenes))
    for scene, detections in zip(scenes, found, strict=True):
        with torch.no_grad():
            expected = original.predict(*batch_of([scene]))[0].pred_instances
        assert len(detections.scores) == len(expected.scores) >= len(scene.labels)
        assert torch.allclose(detections.boxes, expected.bboxes, atol=1e-3)
        assert torch.allclose(detections.scores, expected.scores, atol=1e-4)
        assert torch.equal(detections.labels, expected.labels)


def test_it_fits_the_embedded_data_set(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(shapes_coco, "IMAGES", {"train": (1, 3), "val": (2, 3)})
    ShapesCoco(str(tmp_path)).bind(adapter)
    assert adapter.classes == 10 and adapter.task == "detection"


def test_what_is_quantized():
    types = {}
    for quantize in ("detector", "backbone"):
        types[quantize] = {site.type for site in EmbeddedDetector("shapes_mask_rcnn", None, quantize).build(CPU).sites}
    assert types["detector"] - types["backbone"] == {"neck", "rpn", "roi"}
    assert {"qkv", "proj", "fc1", "fc2", "reduction", "patch_embed"} <= types["backbone"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (("shapes_vit",), "model.name=shapes_vit: must be one of shapes_mask_rcnn"),
        (("shapes_mask_rcnn", None, "heads"), "model.quantize=heads"),
        (("shapes_mask_rcnn", "absent.safetensors"), "model.checkpoint=absent.safetensors: no such file"),
        (("shapes_mask_rcnn", str(FOLDER / "shapes_vit.safetensors")), "does not fit the model"),
    ],
)
def test_mistakes_are_named(values, says):
    with pytest.raises(LampQError) as caught:
        EmbeddedDetector(*values).build(CPU)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_another_checkpoint_changes_the_weights(adapter, tmp_path):
    from safetensors.torch import save_file

    state = read_weights(str(FOLDER / "shapes_mask_rcnn.safetensors"))
    state["neck.fpn_convs.0.conv.bias"] += 1
    save_file(state, tmp_path / "other.safetensors")
    other = EmbeddedDetector("shapes_mask_rcnn", str(tmp_path / "other.safetensors")).build(CPU)
    assert other.weights_hash() != adapter.weights_hash()
