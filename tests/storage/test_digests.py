"""Digests of files: what is remembered, and when it is not believed."""

import hashlib
import logging
import os
import threading
import time
from pathlib import Path

import pytest

from lampq.errors import LampQError
from lampq.storage import digests
from lampq.storage.digests import Digests

NAMES = ["a", "b/c"]


@pytest.fixture
def root(tmp_path):
    """Two files that were written a while ago, as far as `Digests` is concerned."""
    folder = tmp_path / "images"
    (folder / "b").mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def later(monkeypatch):
    """Time has passed since the files were written."""
    monkeypatch.setattr(digests, "RECENT", -1.0)


def reading(root, folder, names=NAMES):
    """Digests, and the names of the files that were read for them."""
    read = []
    found = Digests(folder).of(root, names, lambda path, content: read.append(str(path.relative_to(root))))
    return found, sorted(read)


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_they_are_sha256_and_need_no_folder(root):
    assert Digests().of(root, NAMES) == [sha256(name) for name in NAMES]


def test_a_second_run_reads_no_file(root, tmp_path, later):
    first = reading(root, tmp_path / "cache")
    assert first == ([sha256(name) for name in NAMES], NAMES)
    assert reading(root, tmp_path / "cache") == (first[0], [])


def replaced(path):
    """Another file of the same size and time in its place."""
    before = path.stat()
    (path.parent / "new").write_text("X" * before.st_size)
    os.utime(path.parent / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(path.parent / "new", path)


def overwritten(path):
    """Other bytes in the same file, its time put back."""
    before = path.stat()
    time.sleep(0.02)
    path.write_text("X" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [replaced, overwritten, lambda path: path.write_text("longer than before")])
def test_a_file_that_has_changed_is_read_again(root, tmp_path, later, change):
    before, _ = reading(root, tmp_path / "cache")
    change(root / "a")
    after, read = reading(root, tmp_path / "cache")
    assert read == ["a"] and after[0] == sha256((root / "a").read_text()) != before[0] and after[1] == before[1]


def test_a_file_that_has_just_been_written_is_not_remembered(root, tmp_path):
    """It could change once more within a tick of the file system's clock, and nothing would show it."""
    reading(root, tmp_path / "cache")
    assert reading(root, tmp_path / "cache")[1] == NAMES
    for name in NAMES:
        os.utime(root / name, (0, 0))
    assert reading(root, tmp_path / "cache")[1] == NAMES, "an old time of the content alone proves nothing"


@pytest.mark.parametrize("content", ["", "no digest\n{}", None])
def test_a_damaged_file_of_digests_is_rebuilt_with_a_line(root, tmp_path, later, caplog, content):
    first, _ = reading(root, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    text = kept.read_text()
    kept.write_text(text.replace(first[0], sha256("other")) if content is None else content)
    assert reading(root, tmp_path / "cache") == (first, NAMES)
    assert f"{kept} cannot be used (damaged)" in caplog.text and len(caplog.records) == 2
    assert reading(root, tmp_path / "cache") == (first, [])


def test_where_nothing_can_be_written_a_line_says_so(root, tmp_path, later, caplog):
    (tmp_path / "cache").write_text("a file")
    caplog.set_level(logging.WARNING)
    assert reading(root, tmp_path / "cache") == ([sha256(name) for name in NAMES], NAMES)
    assert "digests cannot be kept" in caplog.text


def test_several_at_once_leave_a_whole_file(root, tmp_path, later):
    for index in range(50):
        (root / str(index)).write_text(str(index))
    threads = [
        threading.Thread(target=reading, args=(root, tmp_path / "cache", [str(i) for i in range(first, 50)]))
        for first in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert len(reading(root, tmp_path / "cache", [str(i) for i in range(50)])[1]) < 50


def test_what_is_known_of_other_files_is_kept(root, tmp_path, later):
    for name in NAMES:
        reading(root, tmp_path / "cache", [name])
    assert reading(root, tmp_path / "cache")[1] == []


def test_what_is_read_is_what_was_named(root):
    known = Digests()
    known.of(root, NAMES)
    known.check(root / "a", b"a")
    known.check(root / "never asked for", b"anything")
    with pytest.raises(LampQError, match=r"images/a: has changed since"):
        known.check(root / "a", b"b")


def test_a_file_that_cannot_be_read_is_named(root):
    with pytest.raises(LampQError, match=r"images/absent: cannot be read \(No such file"):
        Digests().of(root, [*NAMES, "absent"])


def test_what_is_refused_is_not_remembered(root, tmp_path, later):
    def refuse(path: Path, content: bytes) -> None:
        raise LampQError(f"{path}: no")

    for _ in range(2):
        with pytest.raises(LampQError, match=r"a: no"):
            Digests(tmp_path / "cache").of(root, ["a"], refuse)
