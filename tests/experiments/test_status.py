"""How the cells of experiments stand."""

import shutil
import threading

import pytest
from rich.console import Console

from experiments.__main__ import main
from experiments.status import status
from lampq.errors import LampQError
from lampq.launch.cells import FAILED, NOT_AVAILABLE, PLANNED, RUNNING
from lampq.storage.lock import hold

ADALOG = "model=deit_tiny bits=3 method=adalog"
LAMPQ = "model=deit_tiny bits=3 method=lampq"
ERQ = "model=deit_tiny bits=3 method=erq"


def told(results, name=None):
    """Whether everything is done, and what is printed."""
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        complete = status(results.path, name, console)
    return complete, capture.get()


def test_cells_are_counted_by_state(results):
    for seed in range(3):
        results.measured("table3", f"{ADALOG} seed={seed}")
    results.cell("table3", LAMPQ, FAILED, reason="no card")
    results.cell("table3", f"{LAMPQ} seed=1", PLANNED)
    results.cell("table3", f"{LAMPQ} seed=2", PLANNED)
    results.cell("table3", ERQ, NOT_AVAILABLE, reason="method=erq does not exist")
    results.measured("figure1", "model=deit_tiny")
    complete, text = told(results)
    assert not complete
    assert text.splitlines() == ["figure1: 1 done", "table3: 3 done, 1 failed, 2 missing, 1 not available"]


def test_the_cells_of_one_experiment_are_listed_with_reasons(results):
    run = results.measured("table3", ADALOG)
    results.cell("table3", LAMPQ, FAILED, reason="no [card] here", traceback="Traceback\n  [red] deep inside")
    results.cell("table3", ERQ, NOT_AVAILABLE, reason="method=erq does not exist")
    results.cell("table3", f"{ERQ} seed=1", RUNNING)
    results.measured("figure1", "model=deit_tiny")
    _, text = told(results, "table3")
    assert f"  done bits=3, method=adalog, model=deit_tiny {run}" in text
    assert "  failed bits=3, method=lampq, model=deit_tiny: no [card] here\n" in text
    assert "  [red] deep inside" in text
    assert "  not available bits=3, method=erq, model=deit_tiny: method=erq does not exist" in text
    assert "  interrupted bits=3, method=erq, model=deit_tiny, seed=1 (began 2026-01-02T03:04:05); run the same" in text
    assert "figure1" not in text


@pytest.mark.parametrize("state", [PLANNED, FAILED, RUNNING])
def test_the_exit_status_is_0_only_where_every_available_cell_is_done(results, capsys, state):
    results.measured("table3", ADALOG)
    results.cell("table3", ERQ, NOT_AVAILABLE, reason="method=erq does not exist")
    command = ["status", "table3", "--results", str(results.path)]
    assert main(command) == 0
    results.cell("table3", LAMPQ, state, reason="no card")
    assert main(command) == 1
    assert main(command[:1] + command[2:]) == 1
    results.measured("table3", LAMPQ)
    assert main(command) == 0
    assert capsys.readouterr().err == ""


def test_a_cell_whose_run_was_deleted_is_missing(results):
    shutil.rmtree(results.measured("table3", ADALOG))
    assert told(results) == (False, "table3: 1 missing\n")


def test_a_cell_is_running_while_its_job_holds_it_and_interrupted_after_that(results):
    cell = results.cell("table3", ADALOG, PLANNED)
    begun, may_end = threading.Event(), threading.Event()

    def job():
        with cell.running(results.path):
            begun.set()
            may_end.wait(30)

    thread = threading.Thread(target=job)
    thread.start()
    try:
        assert begun.wait(30)
        complete, text = told(results, "table3")
        assert not complete and text.startswith("table3: 1 running\n")
        assert "  running bits=3, method=adalog, model=deit_tiny since 20" in text
    finally:
        may_end.set()
        thread.join()
    assert told(results)[1] == "table3: 1 interrupted\n"


def test_asking_does_not_keep_a_job_from_beginning(results):
    cell = results.cell("table3", ADALOG, RUNNING)
    assert told(results)[1] == "table3: 1 interrupted\n"
    with hold(cell.lock(results.path), "the cell"):
        assert cell.state_now(results.path) == "running"
    assert not any((results.path / ".locks").iterdir())


def test_an_unknown_experiment_is_one_line(results, capsys):
    results.measured("table3", ADALOG)
    assert main(["status", "tabel3", "--results", str(results.path)]) == 1
    err = capsys.readouterr().err
    assert "tabel3: no cells under" in err and "did you mean table3?" in err and err.count("\n") == 1


def test_nothing_at_all_is_one_line(results):
    results.path.mkdir()
    with pytest.raises(LampQError, match=r"no cells; run an experiment first: python run\.py experiment=NAME"):
        status(results.path)


def test_a_damaged_run_and_a_cell_that_cannot_be_read_are_named(results, capsys):
    run, good = results.measured("table3", ADALOG), results.measured("table3", LAMPQ)
    (run / "metrics.json").write_text("{}")
    torn = results.path / "experiments" / "table3" / "torn.json"
    torn.write_text("{")
    assert main(["status", "table3", "--results", str(results.path)]) == 1
    out, err = capsys.readouterr()
    assert "table3: 1 done, 1 damaged" in out and str(good) in out
    first, second = err.splitlines()
    assert first.startswith(f"left out: {torn}: no cell (")
    assert second.startswith(f"left out: {run}: metrics.json has changed since it was written; run its command")
