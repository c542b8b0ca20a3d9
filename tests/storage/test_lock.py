"""Locks: one holder at a time, no file left behind, and who waits says for whom."""

import logging
import multiprocessing
import os
import platform
import time

import pytest

from lampq.storage import lock
from lampq.storage.lock import hold, is_held, remove_left_over

fork = multiprocessing.get_context("fork")


def _holds_often(path, inside, overlaps, turns):
    for _ in range(turns):
        with hold(path, "the lock"):
            try:
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                overlaps.put(os.getpid())
            inside.unlink(missing_ok=True)


def _holds(path, begun):
    with hold(path, "the lock"):
        begun.set()
        time.sleep(60)


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock."""
    begun = fork.Event()
    process = fork.Process(target=_holds, args=(tmp_path / "lock", begun))
    process.start()
    assert begun.wait(30)
    yield process
    process.kill()
    process.join()


def test_one_at_a_time_and_no_file_is_left(tmp_path, monkeypatch):
    """Processes that come and go: the file is removed and made again all the time."""
    monkeypatch.setattr(lock, "PAUSE", 0)
    folder, overlaps = tmp_path / "locks", fork.SimpleQueue()
    arguments = (folder / "lock", tmp_path / "inside", overlaps, 400)
    processes = [fork.Process(target=_holds_often, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert overlaps.empty() and list(folder.iterdir()) == []


def test_a_file_that_was_replaced_while_it_was_waited_for_is_no_lock(tmp_path, monkeypatch):
    path, flock = tmp_path / "lock", lock.fcntl.flock

    def after_another_one_let_go(descriptor, how):
        monkeypatch.setattr(lock.fcntl, "flock", flock)
        path.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(lock.fcntl, "flock", after_another_one_let_go)
    assert lock._try(path) is None
    with hold(path, "the lock"):
        assert is_held(path)


def test_a_lock_is_held_until_its_process_is_killed(tmp_path, other):
    path = tmp_path / "lock"
    assert is_held(path) and lock._try(path) is None
    other.kill()
    other.join()
    assert path.exists() and not is_held(path)
    with hold(path, "the lock"):
        assert is_held(path)
    assert not path.exists() and not is_held(path)


def test_who_waits_says_for_what_and_for_whom_and_ctrl_c_ends_the_wait(tmp_path, other, caplog, monkeypatch):
    monkeypatch.setattr(lock, "SILENT", 0.2)
    monkeypatch.setattr(lock, "REPEATED", 0.3)
    started, sleep = time.monotonic(), time.sleep

    def until_ctrl_c(seconds):
        """Where a wait is when Ctrl-C comes; a real signal would hit whatever else the process of the tests does."""
        if time.monotonic() - started > 0.9:
            raise KeyboardInterrupt
        sleep(seconds)

    monkeypatch.setattr(lock.time, "sleep", until_ctrl_c)
    with (
        caplog.at_level(logging.INFO, "lampq.storage.lock"),
        pytest.raises(KeyboardInterrupt),
        hold(tmp_path / "lock", "run x"),
    ):
        raise AssertionError
    monkeypatch.undo()
    said = [record.getMessage() for record in caplog.records]
    assert 2 <= len(said) <= 3
    assert said[0].startswith(f"waiting for run x, in the hands of process {other.pid} on {platform.node()}, for ")
    assert is_held(tmp_path / "lock")


def test_what_earlier_versions_left_goes_unless_it_is_held(tmp_path, other):
    remove_left_over(tmp_path / "lock")
    assert is_held(tmp_path / "lock")
    (tmp_path / "old.lock").touch()
    remove_left_over(tmp_path / "old.lock")
    remove_left_over(tmp_path / "never there")
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_file_system_without_locks_is_said_once_and_the_work_goes_on(tmp_path, caplog, monkeypatch):
    def no_locks(descriptor, how):
        raise OSError(lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    for name in ("a", "b"):
        with hold(tmp_path / name, "the lock"):
            pass
    assert len(caplog.records) == 1 and "has no locks" in caplog.text and list(tmp_path.iterdir()) == []
