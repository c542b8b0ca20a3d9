"""The published detectors by name: what they are made of, and every mistake in one line.

Published sizes take up to 10 s each: some 100 million parameters are drawn and read.
"""

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from lampq.errors import LampQError
from lampq.models.detection import mmdet_detector
from lampq.models.detection.mmdet_detector import ARCHITECTURES, MmdetDetector, detector_config, fill_randomly
from lampq.models.detection.pictures import Images
from tests.small_detectors import detector_images, instances_in, original_names, small_config, small_detector

CONF = Path(__file__).parents[3] / "conf" / "model"
CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    """The small architecture in the place of the published ones."""
    monkeypatch.setattr(mmdet_detector, "detector_config", lambda name: small_config(name.startswith("cascade")))


def options(name):
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert values.pop("_target_") == "lampq.models.detection.mmdet_detector.MmdetDetector"
    return values


def test_every_architecture_has_a_yaml_with_what_was_published():
    published = {"46.0/41.6", "48.5/43.3", "50.4/43.7", "51.9/45.0"}
    values = [options(name) for name in ARCHITECTURES]
    assert [value["name"] for value in values] == list(ARCHITECTURES)
    assert {f"{value['published_box_ap']}/{value['published_mask_ap']}" for value in values} == published
    assert all(value["checkpoint"] is None and value["quantize"] == "detector" for value in values)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_without_a_file_it_says_where_one_comes_from(name):
    with pytest.raises(LampQError) as caught:
        MmdetDetector(**options(name)).build(CPU)
    message = str(caught.value)
    assert message.startswith("model.checkpoint=null: ") and "\n" not in message and "model.checkpoint=FILE" in message
    assert f" {name}_patch4_window7.pth of Swin-Transformer-Object-Detection" in message
    assert ("mmdet's mask_rcnn_swin-" in message) == name.startswith("mask")


def test_wrong_values_are_refused():
    for wrong, named in (
        ({"name": "mask_rcnn_swin_base"}, "model.name=mask_rcnn_swin_base"),
        ({"quantize": "neck"}, "model.quantize=neck"),
        ({"published_box_ap": "high"}, "model.published_box_ap"),
        ({"published_mask_ap": -1}, "model.published_mask_ap"),
    ):
        with pytest.raises(LampQError, match=named):
            MmdetDetector(**{"name": "mask_rcnn_swin_tiny", **wrong})


def test_random_weights_are_called_what_they_are(small, caplog):
    model = MmdetDetector(**{**options("cascade_mask_rcnn_swin_tiny"), "checkpoint": "random"})
    adapter = model.build(CPU)
    assert model.name == adapter.name == "cascade_mask_rcnn_swin_tiny_random" and adapter.published_ap is None
    assert "random weights" in caplog.text
    assert adapter.weights_hash() == model.build(CPU).weights_hash()
    found = adapter.run(detector_images(2))
    assert all(len(one.scores) > 0 for one in found), "nothing is found, so masks are not tried"


def test_weights_come_from_the_file(small, tmp_path):
    torch.save({"state_dict": small_detector(seed=4).state_dict()}, tmp_path / "trained.pth")
    values = {**options("mask_rcnn_swin_tiny"), "checkpoint": str(tmp_path / "trained.pth")}
    adapter = MmdetDetector(**values).build(CPU)
    assert adapter.name == "mask_rcnn_swin_tiny" and adapter.published_ap == (46.0, 41.6)
    for name, value in small_detector(seed=4).state_dict().items():
        if not name.endswith("position_index"):
            assert torch.equal(adapter.network.state_dict()[name], value)
    backbone = MmdetDetector(**{**values, "quantize": "backbone", "published_mask_ap": None}).build(CPU)
    assert len(backbone.sites) < len(adapter.sites) and backbone.published_ap is None
    with pytest.raises(LampQError, match="no such file"):
        MmdetDetector(**{**values, "checkpoint": "/nowhere.pth"}).build(CPU)


def test_random_weights_depend_on_the_seed_alone():
    one, other, again = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)) for _ in range(3))
    for network, seed in ((one, 0), (other, 1), (again, 0)):
        fill_randomly(network, seed)
    assert torch.equal(one[0].weight, again[0].weight) and not torch.equal(one[0].weight, other[0].weight)
    assert not one[0].bias.any()


def test_nothing_would_be_downloaded_by_mmdet():
    for name in ARCHITECTURES:
        config = detector_config(name)
        assert config.backbone.type == "SwinTransformer" and config.backbone.init_cfg is None
        assert config.backbone.depths == ([2, 2, 18, 2] if name.endswith("small") else [2, 2, 6, 2])
        assert config.type == ("CascadeRCNN" if name.startswith("cascade") else "MaskRCNN")


@pytest.fixture(scope="module")
def published(request):
    """An architecture with random weights, by name; its tests run one after another, and it is built once."""
    return MmdetDetector(request.param, "random").build(CPU)


MADE_OF = {
    "mask_rcnn_swin_tiny": (47.8, 12, 1 + 3 + 12 * 6 + 8 + 3 + 9),
    "mask_rcnn_swin_small": (69.1, 24, 1 + 3 + 24 * 6 + 8 + 3 + 9),
    "cascade_mask_rcnn_swin_tiny": (85.6, 12, 1 + 3 + 12 * 6 + 8 + 3 + 36),
    "cascade_mask_rcnn_swin_small": (106.9, 24, 1 + 3 + 24 * 6 + 8 + 3 + 36),
}
"""Millions of parameters, blocks, sites."""


@pytest.mark.parametrize("published", ARCHITECTURES, indirect=True)
def test_the_published_architectures(published):
    millions, blocks, sites = MADE_OF[published.name.removesuffix("_random")]
    assert round(published.parameters() / 1e6, 1) == millions
    assert (published.blocks, len(published.sites), published.classes) == (blocks, sites, 80)
    layers = sum(site.parameters for site in published.sites if site.allocated)
    assert layers == {12: 25_878_528, 24: 47_112_192}[blocks]  # those of the classifiers
    if blocks == 24:  # more blocks of the same
        return
    pictures = detector_images(1, sizes=((32, 64),))  # small: fewer proposals
    found = published.run(pictures)[0]
    assert len(found.masks) == len(found.scores) == len(found.boxes)
    loss = published.losses(pictures, instances_in(pictures, classes=80), start=0)
    assert loss.shape == (1,) and torch.isfinite(loss).all()
    assert isinstance(published.run(pictures, stop=published.segments - 1), Images)


@pytest.mark.parametrize("published", ["cascade_mask_rcnn_swin_tiny"], indirect=True)
def test_a_file_with_the_authors_names_fits_a_published_architecture(published, tmp_path):
    """A file as the authors of Swin write it, of random weights; the others have fewer parts, or more blocks of the
    same. tests/models/detection/test_mmdet_checkpoints.py has mmdet's names."""
    name, state = published.name.removesuffix("_random"), published.network.state_dict()
    path = tmp_path / "authors.pth"
    torch.save({"meta": {"epoch": 36}, "state_dict": original_names(state)}, path)
    adapter = MmdetDetector(name, str(path)).build(CPU)
    path.unlink()
    loaded = adapter.network.state_dict()
    assert adapter.name == name and loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
