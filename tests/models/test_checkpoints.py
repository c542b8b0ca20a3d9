"""Weights from files: every usual wrapping is read, nothing is executed, every mistake is one line."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from lampq.errors import LampQError
from lampq.models.checkpoints import load_weights, read_weights
from tests.small_models import vision_transformer


@pytest.fixture
def state():
    return vision_transformer(2).state_dict()


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refused(action, *arguments):
    with pytest.raises(LampQError) as caught:
        action(*arguments)
    message = str(caught.value)
    assert message.startswith("model.checkpoint=") and "\n" not in message and "\x1b" not in message
    return message


def test_every_usual_form_is_read(tmp_path, state):
    save_file(state, tmp_path / "plain.safetensors")
    forms = {
        "plain.pth": state,
        "plain.bin": state,
        "wrapped.pth": {"model": state, "epoch": 300, "optimizer": {"lr": 0.1}},
        "lightning.pt": {"state_dict": state, "epoch": 3},
        "twice.pth": {"model": {"state_dict": state}},
        "parallel.pth": {f"module.{name}": tensor for name, tensor in state.items()},
    }
    for name, content in forms.items():
        torch.save(content, tmp_path / name)
    for name in ("plain.safetensors", *forms):
        assert equal(read_weights(tmp_path / name), state), name


def test_weights_are_loaded_strictly(tmp_path, state):
    network = vision_transformer(2, seed=5)
    assert not equal(network.state_dict(), state)
    load_weights(network, state, "file.pth")
    assert equal(network.state_dict(), state)


def test_half_precision_weights_become_single(state):
    network = vision_transformer(2, seed=5)
    load_weights(network, {name: tensor.half() for name, tensor in state.items()}, "file.pth")
    assert network.head.weight.dtype == torch.float32
    torch.testing.assert_close(network.head.weight, state["head.weight"], rtol=1e-3, atol=1e-3)


def test_what_does_not_fit_is_named(state):
    network = vision_transformer(2, seed=5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lacking = {name: tensor for name, tensor in state.items() if name != "blocks.1.attn.qkv.weight"}
    assert "1 missing and 0 unknown tensors, first: missing blocks.1.attn.qkv.weight" in refused(
        load_weights, network, lacking, "f.pth"
    )
    more = {**state, "blocks.7.attn.qkv.weight": torch.zeros(1)}
    assert "unknown blocks.7.attn.qkv.weight" in refused(load_weights, network, more, "f.pth")
    wide = {**state, "head.weight": torch.zeros(7, 24)}
    assert "head.weight is [7, 24] instead of [10, 24]" in refused(load_weights, network, wide, "f.pth")
    assert equal(network.state_dict(), before), "a refused file has changed weights"


def test_another_naming_is_converted_and_a_useless_converter_does_not_hide_the_reason(state):
    network = vision_transformer(2, seed=5)
    foreign = {f"encoder.{name}": tensor for name, tensor in state.items()}

    def convert(state, network):
        return {name.removeprefix("encoder."): tensor for name, tensor in state.items()}

    load_weights(network, foreign, "f.pth", convert)
    assert equal(network.state_dict(), state)

    def broken(state, network):
        raise KeyError("something else")

    for converter in (broken, lambda state, network: {}):
        assert "missing and" in refused(load_weights, network, foreign, "f.pth", converter)


class Payload:
    """Unpickling it runs a command."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def test_a_file_that_would_execute_code_is_refused_unexecuted(tmp_path, state):
    mark = tmp_path / "executed"
    torch.save({"model": state, "extra": Payload(mark)}, tmp_path / "new.pth")
    torch.save({"model": state, "extra": Payload(mark)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Payload(mark), protocol=2))
    for name in ("new.pth", "old.pth", "raw.pth"):
        message = refused(read_weights, tmp_path / name)
        assert "could execute code" in message and "weights_only" not in message
        assert not mark.exists()
    pickle.loads((tmp_path / "raw.pth").read_bytes())
    assert mark.exists(), "the payload is harmless, so the test would prove nothing"


def test_damaged_files_are_refused(tmp_path, state):
    torch.save(state, tmp_path / "cut.pth")
    save_file(state, tmp_path / "cut.safetensors")
    for name in ("cut.pth", "cut.safetensors"):
        content = (tmp_path / name).read_bytes()
        for part in (content[: len(content) // 2], b"", b"<html>404</html>"):
            (tmp_path / name).write_bytes(part)
            refused(read_weights, tmp_path / name)


def test_files_without_weights_are_refused(tmp_path):
    assert "no such file" in refused(read_weights, tmp_path / "nothing.pth")
    assert "no such file" in refused(read_weights, tmp_path)
    for content in ([1, 2], {"model": [1]}, {"a": torch.zeros(1), "epoch": 3}, torch.zeros(3)):
        torch.save(content, tmp_path / "other.pth")
        assert "no state dictionary" in refused(read_weights, tmp_path / "other.pth")
