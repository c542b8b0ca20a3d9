"""Search by Optuna: a trial is a job, and the loss on the sample set D is what it is judged by.

Each test takes about 6 s: a command of its own, with a process that imports PyTorch.
"""

import json

import pytest
import yaml

from lampq.launch.cells import read_cells
from tests.launch.grids import FEW_IMAGES, Grid

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")

SEARCH = (
    *FEW_IMAGES,
    "scale=smoke",
    "base_quantizer=rtn",
    "validate=false",
    "baseline=none",
    "hydra.sweeper.n_trials=3",
)


def _best(grid):
    (path,) = grid.results.glob("hydra/*/optimization_results.yaml")
    return yaml.safe_load(path.read_text())


def _losses(grid):
    return [json.loads(path.read_text())["sample_loss"] for path in grid.results.glob("runs/*/metrics.json")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [["hydra/sweeper=optuna", "lampq.mu=choice(0.25,0.5,0.75,1)"], ["hydra/sweeper=optuna_lampq"]], ids=str
)
def test_the_lowest_loss_wins(tmp_path, options):
    grid = Grid(tmp_path, *options, *SEARCH, "hydra.sweeper.sampler.seed=0")  # without one, three trials may be equal
    status, said = grid.run()
    assert status == 0, said
    assert _best(grid)["best_value"] == min(_losses(grid))
    cells = read_cells(grid.results, "unnamed")
    assert {cell.state for cell in cells} == {"done"} and 2 <= len(cells) <= 3
    assert "alembic" not in said


@pytest.mark.slow
def test_a_failing_trial_ends_no_search(tmp_path):
    grid = Grid(tmp_path, "hydra/sweeper=optuna", "lampq.mu=choice(7,0.5)", *SEARCH, "hydra.sweeper.sampler.seed=0")
    status, said = grid.run()
    assert status == 0, said
    assert _best(grid)["best_params"] == {"lampq.mu": 0.5}
    assert {cell.overrides["lampq.mu"]: cell.state for cell in read_cells(grid.results, "unnamed")} == {
        "7": "failed",
        "0.5": "done",
    }


@pytest.mark.slow
def test_a_search_of_failures_is_one(tmp_path):
    status, said = Grid(tmp_path, "hydra/sweeper=optuna", "lampq.mu=choice(7,8)", *SEARCH).run()
    assert status == 1
    assert said.splitlines()[-1].startswith("error: hydra/sweeper: no trial came to its end; the lines above say why")
