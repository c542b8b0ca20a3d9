"""Jobs of a grid side by side on one machine, by hydra-joblib-launcher.

It takes half a minute: five processes import PyTorch, and jobs must last long enough for theirs to be found and killed.
"""

import os
import signal

import pytest

from tests.launch.grids import LONG_ENOUGH, Grid, process_of, wait_for, worker_of

pytest.importorskip("hydra_plugins.hydra_joblib_launcher")


@pytest.mark.slow
def test_what_happens_to_one_job_stops_no_other(tmp_path):
    shorter = "effort.steps=2"
    grid = Grid(tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *LONG_ENOUGH, shorter, "bits=3,4,5")
    process = grid.start()

    def at_work(bits):
        cell = grid.cells().get(bits)
        return cell is not None and grid.states()[bits] == "running" and grid.computed() and worker_of(cell)

    os.kill(wait_for(lambda: at_work("3"), "the first job"), signal.SIGKILL)
    wait_for(lambda: grid.cells()["3"].state == "failed", "the killed job's cell")
    # A process of joblib's own: it then ends all jobs under way.
    wait_for(lambda: at_work("4"), "the second job")
    os.kill(process_of(grid.cells()["4"]), signal.SIGKILL)
    said, _ = process.communicate(timeout=300)

    cells = grid.cells()
    assert process.returncode == 1
    assert cells["3"].reason.startswith("its process was ended by SIGKILL")
    assert {bits: cell.state for bits, cell in cells.items()} == {
        "3": "failed",
        "4": "done",
        "5": "done",
    }
    assert "launching again what has not ended" in said
    assert said.splitlines()[-1] == f"error: {cells['3'].reason}"
    assert grid.finished_runs() == 2
    assert "hydra/launcher=joblib" in cells["4"].command
