"""Imports without a look for garbage."""

import gc
import sys

import pytest

from lampq.launch.imports import LAST, no_garbage_collected


@pytest.fixture
def before(monkeypatch):
    """A process that has imported nothing large yet."""
    monkeypatch.delitem(sys.modules, LAST, raising=False)
    yield
    gc.unfreeze()


def test_garbage_is_left_alone_meanwhile_and_what_stays_is_never_looked_at(before):
    frozen = gc.get_freeze_count()
    with no_garbage_collected():
        assert not gc.isenabled()
        stays = [[]]
    assert gc.isenabled() and gc.get_freeze_count() > frozen and stays


def test_a_failing_import_leaves_it_as_it_was(before):
    with pytest.raises(ModuleNotFoundError), no_garbage_collected():
        import no_such_library  # noqa: F401
    assert gc.isenabled()


def test_who_has_turned_it_off_finds_it_off(before):
    gc.disable()
    try:
        with no_garbage_collected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_a_job_leaves_behind_is_collected(monkeypatch):
    monkeypatch.setitem(sys.modules, LAST, sys)
    frozen = gc.get_freeze_count()
    with no_garbage_collected():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
