"""Files that are there as a whole or not at all."""

import os
import subprocess
import sys

import pytest

from lampq.storage.atomic_write import write_text, write_whole


def test_a_text_is_written_and_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "file.json"
    write_text(path, "first, somewhat longer")
    write_text(path, "second μ")
    assert path.read_text() == "second μ" and list(tmp_path.iterdir()) == [path]


def test_where_the_disk_is_full_the_old_text_stays(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_text(path, "old")

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "a new text")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_where_it_cannot_be_put_in_place_nothing_is_left_of_it(tmp_path):
    path = tmp_path / "taken"
    path.mkdir()
    with pytest.raises(OSError, match="taken"):
        write_text(path, "text")
    assert list(tmp_path.iterdir()) == [path] and path.is_dir()


def test_a_folder_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_text(tmp_path / "nowhere" / "file.json", "text")


def test_a_reader_never_sees_half_a_text(tmp_path):
    """Another process writes long texts of one letter while this one reads."""
    path = tmp_path / "file.txt"
    write_text(path, "a" * 100_000)
    code = (
        "import sys\nfrom pathlib import Path\nfrom lampq.storage.atomic_write import write_text\n"
        "for turn in range(300):\n    write_text(Path(sys.argv[1]), 'ab'[turn % 2] * 100_000)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=os.getcwd())
    seen = set()
    while writer.poll() is None or not seen:
        text = path.read_text()
        assert len(text) == 100_000 and len(set(text)) == 1
        seen.add(text[0])
    assert writer.returncode == 0 and path.read_text() == "b" * 100_000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o077, 0o600)])
def test_the_mode_follows_the_umask_whatever_wrote_the_file(tmp_path, umask, mode):
    def private(path):
        path.unlink()
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write("text")

    before = os.umask(umask)
    try:
        write_whole(tmp_path / "private", private)
        write_text(tmp_path / "text", "text")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [mode, mode]
