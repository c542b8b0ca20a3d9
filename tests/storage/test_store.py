"""The store: computed once, verified when read, whole or not there."""

import errno
import logging
import multiprocessing
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import lampq.storage.store
from lampq.storage.fingerprint import fingerprint
from lampq.storage.store import Store

KEY = {"site": "blocks.0.attn.qkv", "bits": 3, "nested": {"mean": [0.5, 0.5]}, "none": None}


class Computation:
    """Tensors, and how often they were asked for."""

    def __init__(self, value=1.0):
        self.calls, self.value = 0, value

    def __call__(self):
        self.calls += 1
        return {
            "scale": torch.full((3, 4), self.value).T,  # not contiguous
            "half": torch.tensor([self.value], dtype=torch.bfloat16),
            "codes": torch.arange(3),
            "scalar": torch.tensor(self.value, dtype=torch.float64),
            "empty": torch.zeros(0, 2),
        }


def entry_of(root):
    (path,) = root.rglob("*.safetensors")
    return path


def equal(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_an_entry_is_computed_once_and_read_by_the_next_process(tmp_path):
    computation = Computation()
    first = Store(tmp_path)
    assert not first.holds("bank", KEY)
    tensors = first.fetch("bank", KEY, computation)
    assert equal(tensors, Computation()()) and computation.calls == 1
    assert first.fetch("bank", dict(reversed(KEY.items())), computation) is tensors and first.holds("bank", KEY)
    first.forget()
    again = Store(tmp_path)
    assert again.holds("bank", KEY)
    assert equal(again.fetch("bank", KEY, computation), tensors) and equal(
        first.fetch("bank", KEY, computation), tensors
    )
    assert computation.calls == 1


def test_another_key_or_kind_is_another_entry(tmp_path):
    store, computation = Store(tmp_path), Computation()
    store.fetch("bank", KEY, computation)
    for kind, key in (("scores", KEY), ("bank", {**KEY, "bits": 4}), ("bank", {**KEY, "none": False})):
        assert not store.holds(kind, key)
        store.fetch(kind, key, computation)
    assert computation.calls == 4 and len(list(tmp_path.rglob("*.safetensors"))) == 4


def test_an_entry_without_tensors_is_kept_too(tmp_path):
    for _ in range(2):
        assert Store(tmp_path).fetch("bank", KEY, dict) == {}
    assert Store(tmp_path).holds("bank", KEY)


def _rewritten(path, **changes):
    """The entry with other words in its header; None leaves a word out."""
    with safe_open(str(path), framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata = {name: value for name, value in {**metadata, **changes}.items() if value is not None}
    save_file(tensors, str(path), metadata=metadata)


@pytest.mark.parametrize(
    "damage",
    [{"seconds": value} for value in ("abc", "nan", "-1.0", "inf", None)] + [{"digest": None}, {"key": None}],
)
def test_a_damaged_header_is_computed_again_with_a_warning(tmp_path, caplog, damage):
    Store(tmp_path).fetch("bank", KEY, Computation())
    _rewritten(entry_of(tmp_path), **damage)
    for calls in (1, 0):
        computation = Computation()
        store = Store(tmp_path)
        assert equal(store.fetch("bank", KEY, computation), Computation()()) and computation.calls == calls
    assert len(caplog.records) == 1 and "does not hold what its name says: computing it again" in caplog.text


def _folder_in_its_place(path):
    path.unlink()
    (path / "inside").mkdir(parents=True)


def _file_for_its_folder(path):
    shutil.rmtree(path.parent)
    path.parent.touch()


def _dangling_link(path):
    path.unlink()
    path.symlink_to("nowhere")


def _link_to_itself(path):
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("obstacle", "told"),
    [
        (_folder_in_its_place, r"are not kept in .*safetensors \(Is a directory\): remove the folder"),
        (_file_for_its_folder, r"are not kept in .*/bank/\w\w \(.*\): remove the file that is in the way"),
        (_dangling_link, None),
        (_link_to_itself, None),
    ],
)
def test_what_is_in_the_way_of_an_entry_fails_no_run(tmp_path, caplog, obstacle, told):
    """An entry that cannot be kept is computed by every run, which says so in one line; else it is replaced."""
    Store(tmp_path).fetch("bank", KEY, Computation())
    obstacle(entry_of(tmp_path))
    computation, store = Computation(), Store(tmp_path)
    for _ in range(2):
        assert equal(store.fetch("bank", KEY, computation, remember=False), Computation()())
    assert computation.calls == (2 if told else 1)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (1 if told else 0) and (not told or re.search(told, messages[0]))
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("*.lock"))


def _refused(monkeypatch, number, *, reading=False):
    """The operating system refuses to make files, or to read them; the superuser is refused nothing."""
    opened = os.open

    def refuse(path, flags, *rest, **more):
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, flags, *rest, **more)

    def refuse_reading(self, *arguments, **more):
        raise PermissionError(number, os.strerror(number), str(self))

    if reading:
        monkeypatch.setattr(Path, "open", refuse_reading)
    else:
        monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_store_that_cannot_be_written_is_said_once_and_keeps_nothing(tmp_path, caplog, monkeypatch, number):
    _refused(monkeypatch, number)
    store = Store(tmp_path)
    for bits in range(3):
        assert equal(store.fetch("bank", {"bits": bits}, Computation()), Computation()())
        store.partial("bank", {"bits": bits}).write({"x": torch.ones(1)})
    assert len(caplog.records) == 1 and f"({os.strerror(number)})" in caplog.text and "paths.cache" in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_entry_that_may_not_be_read_names_its_owner_and_is_computed_again(tmp_path, caplog, monkeypatch):
    Store(tmp_path).fetch("bank", KEY, Computation())
    _refused(monkeypatch, errno.EACCES, reading=True)
    computation = Computation()
    assert equal(Store(tmp_path).fetch("bank", KEY, computation), Computation()()) and computation.calls == 1
    assert len(caplog.records) == 1
    assert f"permission denied; ask its owner ({entry_of(tmp_path).owner()}) for it" in caplog.text


def test_files_follow_the_umask_and_no_lock_file_is_left(tmp_path):
    before = os.umask(0o002)
    try:
        store = Store(tmp_path / "store")
        store.partial("long", KEY).write({"x": torch.ones(1)})
        store.fetch("bank", KEY, lambda: store.fetch("inner", KEY, Computation()))
    finally:
        os.umask(before)
    paths = list((tmp_path / "store").rglob("*"))
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_file()} == {0o664}
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_dir()} == {0o775}
    assert [path.suffix for path in paths if path.is_file()] == [".safetensors"] * 3


def test_a_lock_file_of_an_earlier_version_goes_when_its_entry_is_read(tmp_path):
    Store(tmp_path).fetch("bank", KEY, Computation())
    path = entry_of(tmp_path)
    old = path.with_name(f"{path.name}.lock")
    old.touch()
    Store(tmp_path).fetch("bank", KEY, Computation())
    assert not old.exists()


def _fetch_in_both_orders(root, first, barrier):
    """Fetch entries that need others, some of which the other process computes."""
    store = Store(root)

    def chain(step):
        def compute():
            time.sleep(0.05)
            return chain(step - 1) if step else {"x": torch.ones(1)}

        return store.fetch("chain", {"step": step}, compute)

    barrier.wait()
    for step in first:
        chain(step)


def test_processes_that_need_each_others_entries_do_not_wait_for_ever(tmp_path):
    barrier = multiprocessing.get_context("fork").Barrier(3)
    orders = ([5, 2, 4], [2, 5, 3], [4, 3, 5])
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_fetch_in_both_orders, args=(tmp_path, order, barrier)) for order in orders]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert len(list(tmp_path.rglob("*.safetensors"))) == 6 and not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize("damage", ["cut", "empty", "other bytes", "one bit of a tensor"])
def test_a_damaged_file_is_computed_again_with_a_warning(tmp_path, caplog, damage):
    tensors = Store(tmp_path).fetch("bank", KEY, Computation())
    path = entry_of(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "one bit of a tensor":
        content[-1] ^= 1
    content = {"cut": content[: len(content) // 2], "empty": b"", "other bytes": b"x" * 500}.get(damage, content)
    path.write_bytes(content)
    computation = Computation()
    with caplog.at_level(logging.WARNING, "lampq.storage.store"):
        assert equal(Store(tmp_path).fetch("bank", KEY, computation), tensors)
    assert computation.calls == 1
    messages = {record.getMessage() for record in caplog.records}
    assert len(messages) == 1 and str(path) in messages.pop()
    caplog.clear()
    assert equal(Store(tmp_path).fetch("bank", KEY, computation), tensors)  # it was put in order
    assert computation.calls == 1 and not caplog.records


def test_a_file_of_another_key_is_computed_again(tmp_path, caplog):
    Store(tmp_path).fetch("bank", {**KEY, "bits": 4}, Computation(value=4.0))
    path = entry_of(tmp_path)
    name = fingerprint(KEY)
    stale = tmp_path / "bank" / name[:2] / f"{name}.safetensors"
    stale.parent.mkdir(exist_ok=True)
    os.replace(path, stale)
    computation = Computation()
    with caplog.at_level(logging.WARNING, "lampq.storage.store"):
        assert equal(Store(tmp_path).fetch("bank", KEY, computation), Computation()())
    assert computation.calls == 1 and "does not hold what its name says" in caplog.text
    save_file({"scale": torch.ones(1)}, stale)  # a safetensors file that is not an entry
    assert equal(Store(tmp_path).fetch("bank", KEY, computation), Computation()())
    assert computation.calls == 2


def _fetch_in_a_process(root, counter, barrier, answers):
    def compute():
        with open(counter, "a") as file:
            file.write("x")
        time.sleep(0.5)
        return {"scale": torch.tensor([float(os.getpid())])}

    barrier.wait()
    answers.put(Store(root).fetch("bank", KEY, compute)["scale"].item())


def test_two_processes_at_once_compute_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, answers, counter = context.Barrier(2), context.SimpleQueue(), tmp_path / "counter"
    processes = [
        context.Process(target=_fetch_in_a_process, args=(tmp_path / "store", counter, barrier, answers))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert counter.read_text() == "x"
    assert answers.get() == answers.get()


def test_a_writer_that_dies_leaves_nothing_half_done(tmp_path, monkeypatch):
    def dies_half_way(tensors, path, metadata=None):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lampq.storage.store, "save_file", dies_half_way)
        with pytest.raises(OSError, match="No space left on device") as caught:
            Store(tmp_path).fetch("bank", KEY, Computation())
    assert caught.value.errno == 28 and caught.value.filename.endswith(".safetensors")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Store(tmp_path).fetch("bank", KEY, Computation())
    assert not Store(tmp_path).holds("bank", KEY)
    computation = Computation()
    assert equal(Store(tmp_path).fetch("bank", KEY, computation), Computation()()) and computation.calls == 1


def test_a_computation_that_fails_is_tried_again(tmp_path):
    store = Store(tmp_path)

    def fails():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.fetch("bank", KEY, fails)
    computation = Computation()
    assert not store.holds("bank", KEY) and not store.seconds_computed
    store.fetch("bank", KEY, computation)
    assert computation.calls == 1


def test_seconds_are_counted_once(tmp_path, monkeypatch):
    """Spent by kind, without what nested entries cost; what was read adds what it had cost."""
    clock = [0.0]
    monkeypatch.setattr(lampq.storage.store.time, "perf_counter", lambda: clock[0])
    store = Store(tmp_path)

    def inner():
        clock[0] += 7
        return Computation()()

    def outer():
        clock[0] += 2
        scale = store.fetch("inner", KEY, inner)["scale"]
        clock[0] += 1
        return {"x": scale}

    store.fetch("outer", KEY, outer)
    assert store.seconds_computed == {"inner": 7, "outer": 3}
    store.fetch("inner", KEY, inner)
    assert store.seconds_computed["inner"] == 7
    assert not store.seconds_read, "what this process has computed is not read"

    reader = Store(tmp_path)
    for _ in range(2):
        reader.fetch("inner", KEY, inner)
    assert reader.seconds_read == {"inner": 7}
    reader.fetch("outer", KEY, outer)
    reader.fetch("outer", {**KEY, "bits": 9}, outer)
    assert reader.seconds_read == {"inner": 7, "outer": 3} and reader.seconds_computed == {"outer": 3}


def test_what_is_kept_does_not_follow_the_tensors_it_was_made_from(tmp_path):
    source = torch.ones(3)
    store = Store(tmp_path)
    store.fetch("bank", KEY, lambda: {"scale": source})
    source.zero_()
    assert torch.equal(store.fetch("bank", KEY, dict)["scale"], torch.ones(3))


def test_fingerprints():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1}) and len(fingerprint(3)) == 16
    assert len({fingerprint(key) for key in ({"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": None}, {"a": [1]}, {"b": 1})}) == 6
    with pytest.raises(TypeError):
        fingerprint({"a": torch.ones(1)})


def test_an_entry_under_way_keeps_its_state(tmp_path):
    store = Store(tmp_path)
    partial = store.partial("long", KEY)
    assert partial.read() is None
    partial.write({"step": torch.tensor(3)})
    assert not store.holds("long", KEY)
    (path,) = tmp_path.rglob("*.safetensors")
    found = Store(tmp_path).partial("long", KEY).read()
    assert found["step"] == 3 and Store(tmp_path).partial("long", {**KEY, "other": 1}).read() is None
    path.write_bytes(path.read_bytes()[:-3])
    assert Store(tmp_path).partial("long", KEY).read() is None


def test_an_entry_that_is_there_leaves_no_state_behind_and_counts_what_was_spent_before(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("lampq.storage.store.time.perf_counter", lambda: clock[0])

    def step(store, seconds):
        partial = store.partial("long", KEY)
        partial.read()
        clock[0] += seconds
        partial.write({"x": torch.zeros(1)})
        return {"x": torch.ones(1)}

    step(Store(tmp_path), 5)  # killed afterwards
    step(Store(tmp_path), 2)  # and again
    store = Store(tmp_path)
    store.fetch("long", KEY, lambda: step(store, 1))
    assert [path.suffixes for path in tmp_path.rglob("*.safetensors")] == [[".safetensors"]]
    assert store.seconds_computed["long"] == 1
    reader = Store(tmp_path)
    reader.fetch("long", KEY, lambda: None)
    assert reader.seconds_read["long"] == 8
