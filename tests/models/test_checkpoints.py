"""Weights from files: every usual wrapping is read, nothing is executed, every mistake is one line."""

import argparse
import collections
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

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


def loaded(path, convert=None, **options):
    network = vision_transformer(2, seed=5)
    load_weights(network, read_weights(path), path, convert, **options)
    return network.state_dict()


def prefixed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


FORMS = {
    "plain": lambda state: state,
    "wrapped": lambda state: {"model": state, "epoch": 300, "optimizer": {"lr": 0.1}},
    "lightning": lambda state: {"state_dict": prefixed(state, "model."), "epoch": 3},
    "twice": lambda state: {"model": {"state_dict": state}},
    "parallel": lambda state: prefixed(state, "module."),
    "compiled": lambda state: {"model_state": prefixed(state, "module._orig_mod.")},
    "compiled blocks": lambda state: {name.replace("blocks.1.", "blocks.1._orig_mod."): t for name, t in state.items()},
    "a head of its own": lambda state: {
        name if name.startswith("head.") else f"encoder.backbone.{name}": tensor for name, tensor in state.items()
    },
    "average alone": lambda state: {"model_ema": state},
    "beside its average": lambda state: {"state_dict_ema": {n: t + 1 for n, t in state.items()}, "state_dict": state},
    "foreign objects": lambda state: {
        "state_dict": state,
        "args": argparse.Namespace(lr=np.float64(0.1), path=Path("x"), when={collections.deque([1]).pop()}),
        "history": collections.deque([collections.Counter("a"), np.ones(3)]),
    },
    "parameters": lambda state: {name: nn.Parameter(tensor) for name, tensor in state.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_usual_form_is_loaded(tmp_path, state, form):
    for name, zipped in (("new.PT", True), ("old", False)):
        torch.save(FORMS[form](state), tmp_path / name, _use_new_zipfile_serialization=zipped)
        assert equal(loaded(tmp_path / name), state), name


def test_a_file_is_known_by_its_content(tmp_path, state):
    for name in ("plain.safetensors", "A.SAFETENSORS", "blob", "wrong.pth"):
        save_file(state, tmp_path / name)
        assert equal(loaded(tmp_path / name), state), name


def test_a_student_and_its_teacher_are_not_chosen_between(tmp_path, state):
    torch.save({"student": state, "teacher": state}, tmp_path / "both.pth")
    assert "holds a student and a teacher" in refused(read_weights, tmp_path / "both.pth")
    torch.save({"teacher": state}, tmp_path / "one.pth")
    assert equal(loaded(tmp_path / "one.pth"), state)


WRONG = {
    "is sparse": lambda tensor: tensor.to_sparse(),
    "is quantized": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    "is without values": lambda tensor: tensor.to("meta"),
    "holds int8 numbers": lambda tensor: tensor.to(torch.int8),
    "holds complex64 numbers": lambda tensor: tensor.to(torch.complex64),
    "holds float8_e4m3fn numbers": lambda tensor: tensor.to(torch.float8_e4m3fn),
    "values that are not finite": lambda tensor: tensor / 0,
}


@pytest.mark.parametrize("says", WRONG)
def test_tensors_that_are_no_weights_are_named(tmp_path, state, says):
    path = tmp_path / "wrong.pth"
    torch.save({**state, "head.weight": WRONG[says](state["head.weight"])}, path)
    message = refused(loaded, path)
    assert f"{path}: head.weight" in message and says in message


def test_a_converter_may_reorder_split_and_join_but_not_change_values(tmp_path, state):
    qkv = "blocks.0.attn.qkv.weight"
    parts = dict(zip("qkv", state[qkv].chunk(3), strict=True))
    foreign = {f"x.{name}": tensor for name, tensor in state.items() if name != qkv} | parts
    foreign |= {"x.text": torch.ones(7), "x.head.weight": state["head.weight"].T.contiguous()}
    torch.save(foreign, tmp_path / "f.pth")

    def convert(file, network, change=0.0):
        renamed = {name.removeprefix("x."): tensor for name, tensor in file.items() if name.startswith("x.")}
        joined = {qkv: torch.cat([file[part] for part in "qkv"]), "head.weight": renamed["head.weight"].T}
        joined["pos_embed"] = renamed["pos_embed"] + change
        return {name: tensor for name, tensor in (renamed | joined).items() if name != "text"}

    assert equal(loaded(tmp_path / "f.pth", convert), state)

    def resizing(file, network):
        return convert(file, network, change=1e-3)

    assert "pos_embed would have to become" in refused(loaded, tmp_path / "f.pth", resizing)
    assert not equal(loaded(tmp_path / "f.pth", resizing, resize=True), state)


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
    foreign = {f"other.{name}": tensor for name, tensor in state.items()}

    def convert(state, network):
        return {name.removeprefix("other."): tensor for name, tensor in state.items()}

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


def test_nothing_of_a_file_is_executed(tmp_path, state):
    mark = tmp_path / "executed"
    torch.save({"model": state, "extra": Payload(mark)}, tmp_path / "new.pth")
    torch.save({"model": state, "extra": Payload(mark)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Payload(mark), protocol=2))
    for name in ("new.pth", "old.pth"):
        assert equal(loaded(tmp_path / name), state)
    assert "weights_only" not in refused(read_weights, tmp_path / "raw.pth")
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "program.pth")
    assert "a TorchScript program" in refused(read_weights, tmp_path / "program.pth")
    assert not mark.exists()
    torch.load(tmp_path / "new.pth", weights_only=False)
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
    for content in ([1, 2], {"model": [1]}, {"a": torch.zeros(1), "epoch": 3}, torch.zeros(3), {3: torch.zeros(1)}, {}):
        torch.save(content, tmp_path / "other.pth")
        assert "save model.state_dict()" in refused(read_weights, tmp_path / "other.pth")
