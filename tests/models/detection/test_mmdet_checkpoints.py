"""Detectors' weights from files of mmdet and of the authors of Swin; nothing of a file is executed."""

import datetime
import os
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models.swin_transformer import PatchMerging

from lampq.errors import LampQError
from lampq.models.checkpoints import read_weights
from lampq.models.detection.mmdet_checkpoints import from_original, load_detector
from tests.small_detectors import SwinDetectorAdapter, detector_images, instances_in, original_names, small_detector


@pytest.fixture(scope="module", params=[False, True], ids=["mask_rcnn", "cascade"])
def cascade(request):
    return request.param


@pytest.fixture(scope="module")
def state(cascade):
    return small_detector(cascade, seed=4).state_dict()


def losses(network):
    pictures = detector_images(1)
    return SwinDetectorAdapter("one", network, input_size=(3, 96, 64)).losses(pictures, instances_in(pictures), start=0)


def refused(action, *arguments):
    with pytest.raises(LampQError) as caught:
        action(*arguments)
    message = str(caught.value)
    assert message.startswith("model.checkpoint=") and "\n" not in message
    return message


def test_files_of_either_naming_give_the_same_detector(tmp_path, cascade, state):
    other = small_detector(cascade, seed=5)
    expected = losses(small_detector(cascade, seed=4))
    assert not torch.equal(losses(small_detector(cascade, seed=5)), expected)
    original = original_names(state)
    assert len(original.keys() - state.keys()) > 70 and "backbone.layers.2.blocks.1.mlp.fc1.weight" in original
    without_indices = {name: value for name, value in state.items() if not name.endswith("position_index")}
    save_file(original, tmp_path / "original.safetensors")
    forms = {
        "mmdet.pth": {"meta": {"epoch": 12}, "state_dict": state},
        "original.pth": {"meta": {"CLASSES": ("a", "b")}, "state_dict": original, "optimizer": {}},
        "bare.pth": without_indices,
    }
    for name, content in forms.items():
        torch.save(content, tmp_path / name)
    torch.save(forms["original.pth"], tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in (*forms, "original.safetensors", "old.pth"):
        network = small_detector(cascade, seed=5)
        load_detector(network, read_weights(tmp_path / name), name)
        assert torch.equal(losses(network), expected), name
    assert other.state_dict().keys() == state.keys()


def test_names_alone_are_not_enough(cascade, state):
    """The same file with the channels of the patch merging as they are."""
    converted = from_original(original_names(state))
    assert all(torch.equal(converted[name], state[name]) for name in state)
    renamed = dict(converted)
    for name, value in original_names(state).items():
        if "downsample" in name:
            renamed[name.replace("layers", "stages", 1)] = value
    network = small_detector(cascade, seed=5)
    load_detector(network, renamed, "renamed")
    assert not torch.allclose(losses(network), losses(small_detector(cascade, seed=4)))


def test_the_merging_of_patches_computes_what_the_authors_do():
    """timm's takes the four patches in the authors' order."""
    from mmdet.models.layers import PatchMerging as PatchMergingOfMmdet

    torch.manual_seed(0)
    theirs, mine = PatchMerging(6), PatchMergingOfMmdet(6, 12)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    prefix = "backbone.layers.0.downsample."
    converted = from_original({prefix + name: value for name, value in theirs.state_dict().items()})
    assert set(converted) == {f"backbone.stages.0.downsample.{name}" for name in mine.state_dict()}
    mine.load_state_dict({name.rpartition("downsample.")[2]: value for name, value in converted.items()})
    x = torch.randn(2, 8, 10, 6)
    tokens, size = mine(x.flatten(1, 2), (8, 10))
    assert size == (4, 5)
    torch.testing.assert_close(tokens.view(2, 4, 5, 12), theirs(x), rtol=1e-5, atol=1e-5)


def test_a_training_checkpoint_of_mmengine_is_read_without_its_objects(tmp_path, state):
    from mmengine.logging import HistoryBuffer, MessageHub

    hub = MessageHub.get_instance("lampq-test")
    for loss in (2.0, np.float64(1.5)):
        hub.update_scalar("train/loss", loss)
    hub.update_info("iter", np.int64(7))
    history = hub.state_dict()
    assert isinstance(history["log_scalars"]["train/loss"], HistoryBuffer)
    content = {
        "meta": {
            "cfg": "model = dict()",
            "time": datetime.datetime(2024, 1, 1),
            "dataset_meta": {"PALETTE": [(1, 2, 3)]},
        },
        "state_dict": state,
        "message_hub": history,
        "param_schedulers": [{"last_value": [np.float32(0.1)]}],
    }
    torch.save(content, tmp_path / "epoch_12.pth")
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "epoch_12.pth", weights_only=True)
    read = read_weights(tmp_path / "epoch_12.pth")
    assert read.keys() == state.keys() and all(torch.equal(read[name], state[name]) for name in state)
    # The next file gets no privileges from this one.
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "epoch_12.pth", weights_only=True)


class Payload:
    """Unpickling it runs a command."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", ["mkdir", "call"])
def test_nothing_of_a_file_is_executed(tmp_path, function):
    mark = tmp_path / "executed"
    payload = Payload(os.mkdir, str(mark)) if function == "mkdir" else Payload(subprocess.call, ["mkdir", str(mark)])
    content = {"state_dict": {"weight": torch.ones(2)}, "message_hub": payload}
    torch.save(content, tmp_path / "new.pth")
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("new.pth", "old.pth"):
        assert read_weights(tmp_path / name).keys() == {"weight"}
    assert not mark.exists()
    torch.load(tmp_path / "new.pth", weights_only=False)
    assert mark.exists(), "the payload is harmless, so the test would prove nothing"


def test_weights_that_are_objects_are_refused(tmp_path):
    torch.save({"state_dict": {"weight": np.ones(3)}}, tmp_path / "numbers.pth")
    assert "no state dictionary of tensors" in refused(read_weights, tmp_path / "numbers.pth")


def test_wrong_files_are_one_line(tmp_path, cascade, state):
    assert "no such file" in refused(read_weights, tmp_path / "nothing.pth")
    (tmp_path / "text.pth").write_text("<html>404</html>")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save(state, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:5000])
    for name in ("text.pth", "empty.pth", "cut.pth"):
        refused(read_weights, tmp_path / name)
    network = small_detector(not cascade, seed=5)
    before = losses(small_detector(not cascade, seed=5))
    assert "does not fit the model" in refused(load_detector, network, state, "other.pth")
    assert "does not fit the model" in refused(load_detector, network, original_names(state), "other.pth")
    wider = {**state, "neck.fpn_convs.0.conv.weight": torch.zeros(3, 3)}
    same = small_detector(cascade, seed=5)
    assert "neck.fpn_convs.0.conv.weight is [3, 3]" in refused(load_detector, same, wider, "wider.pth")
    lacking = {name: value for name, value in original_names(state).items() if "layers.1.blocks.0.norm1" not in name}
    assert "backbone.stages.1.blocks.0.norm1.bias" in refused(load_detector, same, lacking, "lacking.pth")
    assert torch.equal(losses(network), before), "a refused file has changed weights"
