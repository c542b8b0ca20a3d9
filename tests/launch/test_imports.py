"""Imports without a look for garbage."""

import gc

import pytest

from lampq.launch.imports import no_garbage_collected


@pytest.fixture
def thawed():
    yield
    gc.unfreeze()


def test_garbage_is_left_alone_meanwhile_and_what_stays_is_never_looked_at(thawed):
    frozen = gc.get_freeze_count()
    with no_garbage_collected():
        assert not gc.isenabled()
        stays = [[]]
    assert gc.isenabled() and gc.get_freeze_count() > frozen and stays


def test_a_failing_import_leaves_it_as_it_was(thawed):
    with pytest.raises(ModuleNotFoundError), no_garbage_collected():
        import no_such_library  # noqa: F401
    assert gc.isenabled()


def test_who_has_turned_it_off_finds_it_off():
    gc.disable()
    try:
        with no_garbage_collected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
