"""Cells: what is one cell, how it is told that its job runs, ended, or was killed."""

import json
import threading

import pytest

from lampq.errors import LampQError
from lampq.launch.cells import (
    DONE,
    FAILED,
    INTERRUPTED,
    NOT_AVAILABLE,
    PLANNED,
    RUNNING,
    Cell,
    read_cell,
    read_cells,
    unreadable_cells,
)


def cell(*overrides):
    return Cell.of("table3", list(overrides) or ["method=lampq", "bits=3"])


def only(results):
    (found,) = read_cells(results, "table3")
    return found


def test_the_order_of_overrides_and_where_things_lie_make_no_other_cell():
    assert (
        cell("bits=3", "method=lampq", "paths.results=/x", "device=cuda", "logger=wandb", "hydra/launcher=slurm")
        == cell()
    )
    assert (
        cell("bits=3", "method=lampq", "dataset.batch_size=7", "+experiment.name=x", "force=true").name == cell().name
    )


def test_what_changes_numbers_makes_another_cell():
    for override in ["bits=4", "seed=1", "scale=smoke", "lampq.gamma=2", "+lampq.gamma=2", "bank=fresh"]:
        assert cell("method=lampq", "bits=3", override).name != cell().name, override


def test_a_cell_survives_its_file(tmp_path):
    made = cell("method=lampq", "lampq.gamma=2", "bit_set.bits=[2,3]")
    made.end(tmp_path, DONE, fingerprints=["a", "b"], seconds=1.5)
    read = read_cell(made.path(tmp_path))
    assert (read.overrides, read.state, read.fingerprints, read.seconds) == (made.overrides, DONE, ["a", "b"], 1.5)
    assert read.finished is not None


def test_planning_forgets_nothing_that_is_known(tmp_path):
    cell().plan(tmp_path)
    assert only(tmp_path).state == PLANNED
    cell().end(tmp_path, FAILED, reason="no room")
    cell().plan(tmp_path)
    assert (only(tmp_path).state, only(tmp_path).reason) == (FAILED, "no room")


def test_what_was_not_available_is_planned_when_it_is(tmp_path):
    cell().end(tmp_path, NOT_AVAILABLE, reason="method=lampq does not exist")
    cell().plan(tmp_path)
    assert (only(tmp_path).state, only(tmp_path).reason) == (PLANNED, None)


def test_while_a_job_runs_its_cell_says_so_and_afterwards_how_it_ended(tmp_path):
    with cell().running(tmp_path) as begun:
        assert only(tmp_path).state_now(tmp_path) == RUNNING
        assert only(tmp_path).started and only(tmp_path).command and only(tmp_path).host
        begun.end(tmp_path, DONE, fingerprints=["f"])
    assert only(tmp_path).state_now(tmp_path) == DONE and only(tmp_path).started


def test_a_job_that_was_killed_left_its_cell_interrupted(tmp_path):
    with cell().running(tmp_path):
        pass  # the process ends here, with nothing written
    assert only(tmp_path).state == RUNNING and only(tmp_path).state_now(tmp_path) == INTERRUPTED


def test_a_second_job_of_the_same_cell_waits_for_the_first(tmp_path):
    order, entered = [], threading.Event()

    def second():
        entered.set()
        with cell().running(tmp_path):
            order.append("second")

    with cell().running(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait()
        thread.join(0.2)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_a_file_that_cannot_be_read_hides_no_other(tmp_path):
    cell().plan(tmp_path)
    folder = cell().folder(tmp_path)
    (folder / "half.json").write_text('{"experiment": "tab')
    (folder / "other.json").write_text(json.dumps({"unknown": 1}))
    assert only(tmp_path).overrides == cell().overrides


def test_a_cell_that_cannot_be_read_is_planned_anew(tmp_path):
    cell().plan(tmp_path)
    cell().path(tmp_path).write_text("{")
    cell().plan(tmp_path)
    assert only(tmp_path).state == PLANNED


def test_a_grid_without_a_name_has_cells_too(tmp_path):
    Cell.of(None, ["bits=3"]).plan(tmp_path)
    assert [c.overrides for c in read_cells(tmp_path, "unnamed")] == [{"bits": "3"}]


def test_a_name_that_could_be_a_path_is_refused_before_anything_is_written(tmp_path):
    for name in ["../../x", "/tmp/x", "a/b", "..", "", ".", "a b", "x" * 101, 3]:
        with pytest.raises(LampQError, match=r"experiment\.name="):
            Cell(name, {}).plan(tmp_path)
            pytest.fail(f"accepted: {name}")
        assert list(tmp_path.iterdir()) == [], name


def test_a_file_that_holds_no_cell_or_another_ones_is_named(tmp_path):
    for changes in [
        {"overrides": None},
        {"overrides": {"bits": 3}},
        {"fingerprints": ["../../../etc"]},
        {"fingerprints": None},
        {"state": "x"},
        {"reason": 3},
        {"experiment": "table4"},
        {"overrides": {"bits": "4"}},
    ]:
        made = cell()
        made.plan(tmp_path)
        path = made.path(tmp_path)
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        assert read_cells(tmp_path, "table3") == [], changes
        (line,) = unreadable_cells(tmp_path, "table3")
        assert line.startswith(f"{path}: no cell (") and "\n" not in line, changes


def test_what_is_no_file_is_named(tmp_path):
    made = cell()
    made.path(tmp_path).mkdir(parents=True)
    made.path(tmp_path).with_name("link.json").symlink_to("/nowhere")
    assert len(unreadable_cells(tmp_path, "table3")) == 2
    with pytest.raises(LampQError, match="where a cell belongs; move it away"):
        made.write(tmp_path)
