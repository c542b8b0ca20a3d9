"""A sweep with logger=wandb: a W&B run a job, grouped by the experiment, and one more for its table.

Each test takes about 12 s: a command of its own, with a process that imports PyTorch and three services of W&B.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.grids import FEW_IMAGES
from tests.runs.tracking.offline_wandb import read_run, runs_in
from tests.runs.tracking.wandb_server import WandbServer

pytest.importorskip("wandb")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]


def sweep(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Two cells of table 6 on the embedded ViT, then the table."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    folder.mkdir(exist_ok=True)
    clean |= {"HOME": str(folder), "LAMPQ_CACHE": str(folder / "cache"), **environment}
    command = [sys.executable, "run.py", "experiment=table6", "scale=smoke", "method=adalog,lampq", *arguments]
    command += [*FEW_IMAGES, "base_quantizer=rtn", "logger=wandb", f"paths.results={folder}/results"]
    return subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=False)


def test_jobs_are_grouped_and_the_table_is_logged(tmp_path):
    done = sweep(tmp_path, "logger.mode=offline", "logger.tags=[mine]")
    assert done.returncode == 0, done.stderr[-2000:]
    runs = [read_run(log) for run in (tmp_path / "results" / "runs").iterdir() for log in runs_in(run)]
    assert {run["run"]["group"] for run in runs} == {"table6"}
    assert {run["run"]["job_type"] for run in runs} == {"uniform", "lampq"}
    assert all(run["run"]["tags"] == ["mine", "smoke", "w3a3"] for run in runs)
    assert all(run["exit"] == 0 and "bit_plan" in run["artifacts"] for run in runs)

    (log,) = runs_in(tmp_path / "results" / "experiments" / "table6")
    report = read_run(log)
    assert (report["run"]["group"], report["run"]["job_type"]) == ("table6", "report")
    table = json.loads((log.parent / "files" / report["summary"]["table6.path"]).read_text())
    assert "top1" in table["columns"] and len(table["data"]) >= 2


def test_a_server_that_cannot_be_used_is_waited_for_once(tmp_path):
    """One that refuses the key; tests/runs/tracking/test_wandb.py has others, within one process."""
    server = WandbServer(401)
    done = sweep(tmp_path, "logger.mode=online", WANDB_BASE_URL=server.url, WANDB_API_KEY="a" * 40)
    server.close()
    assert done.returncode == 0, done.stderr[-2000:]
    # Two jobs and the report: one of them asked the server, the others went by its answer.
    told = done.stdout + done.stderr
    assert told.count("logging offline, `wandb sync ") == 3, told
    assert told.count("as a job before found") == 2, told
    logs = [log for run in (tmp_path / "results" / "runs").iterdir() for log in runs_in(run)]
    assert len(logs) == 2 and runs_in(tmp_path / "results" / "experiments" / "table6")
