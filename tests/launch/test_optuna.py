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
def test_the_lowest_loss_wins_and_a_failing_trial_ends_no_search(tmp_path):
    """Over keys of LampQ, with a wrong value of one of them; with another seed all trials may be equal."""
    options = ["hydra/sweeper=optuna_lampq", "lampq.mu=choice(7,0.25,0.5)", "hydra.sweeper.n_trials=4"]
    grid = Grid(tmp_path, *SEARCH, *options, "hydra.sweeper.sampler.seed=0")
    status, said = grid.run()
    assert status == 0, said
    losses = _losses(grid)
    assert _best(grid)["best_value"] == min(losses) and len(losses) >= 2
    cells = read_cells(grid.results, "unnamed")
    failed = [cell for cell in cells if cell.overrides.get("lampq.mu") == "7"]
    assert failed and "alembic" not in said
    assert all(cell.state == ("failed" if cell in failed else "done") for cell in cells)


@pytest.mark.slow
def test_a_search_of_failures_is_one(tmp_path):
    status, said = Grid(tmp_path, "hydra/sweeper=optuna", "lampq.mu=choice(7,8)", *SEARCH).run()
    assert status == 1
    assert said.splitlines()[-1].startswith("error: hydra/sweeper: no trial came to its end; the lines above say why")
