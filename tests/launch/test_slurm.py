"""Jobs of a grid on a real SLURM cluster, of one node: an array, a preemption, a killed job, and the command again.

It takes 40 s, most of it SLURM's own waiting: a job's time to react to its preemption, and to be killed.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.launch.grids import LONG_ENOUGH, Grid, process_of, wait_for

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")

CLUSTER = Path(__file__).with_name("slurm_one_node.sh")
GRACE = 14
"""Seconds from a preemption on after which SLURM is done with the job: GraceTime and KillWait of the cluster."""
NO_CLUSTER = 77
"""Exit status of the script where SLURM cannot be installed."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of one node with 2 CPUs; the value is its SLURM_CONF."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("a SLURM cluster is brought up as root, with Debian's packages")
    folder = tmp_path_factory.mktemp("slurm")
    environment = {**os.environ, "SLURM_ONE_NODE_PORT": str(_two_free_ports())}
    started = subprocess.run([CLUSTER, "start", folder], env=environment, capture_output=True, text=True, check=False)
    try:
        if started.returncode == NO_CLUSTER:
            pytest.skip(f"SLURM cannot be installed: {started.stderr.splitlines()[-1]}")
        assert started.returncode == 0, started.stderr
        yield str(folder / "slurm.conf")
    finally:
        subprocess.run([CLUSTER, "stop", folder], capture_output=True, check=False, timeout=60)


def _two_free_ports():
    for port in range(16817, 17817, 2):
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 1))
            return port
    raise AssertionError("no two free ports")


@pytest.mark.slow
def test_a_preempted_and_a_killed_job_end_well(cluster, tmp_path):
    launcher = (
        *("hydra/launcher=slurm", "hydra.launcher.partition=main", "hydra.launcher.gpus_per_node=null"),
        *("hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1.5"),
    )
    grid = Grid(tmp_path, *launcher, *LONG_ENOUGH, "bits=3,4", SLURM_CONF=cluster)
    # The launcher asks SLURM more often than it does on a cluster that others use.
    asking = "import lampq.launch.slurm as own, runpy, sys; own.ASK, own.LATE = 2, 10; sys.argv[:1] = []"
    grid.command[1:1] = ["-c", f"{asking}; runpy.run_path(sys.argv[0], run_name='__main__')"]
    process = grid.start()

    def slurm(*command):
        return subprocess.run(command, env=grid.environment, capture_output=True, text=True, check=True).stdout

    def tasks():
        """What SLURM knows of the array's jobs, by their number in the array."""
        lines = [
            dict(w.partition("=")[::2] for w in x.split()) for x in slurm("scontrol", "-o", "show", "job").splitlines()
        ]
        return {task["ArrayTaskId"]: task for task in lines if task.get("ArrayTaskId", "").isdigit()}

    wait_for(lambda: list(grid.states().values()) == ["running"] * 2 and len(grid.computed()) >= 4, "both jobs at work")
    assert all(task["CPUs/Task"] == task["NumCPUs"] == "1" for task in tasks().values())

    # A job of higher priority takes a CPU from one of them ...
    computed = grid.computed()
    asked = time.monotonic()
    slurm("sbatch", "--partition=high", "--cpus-per-task=1", "--output=/dev/null", "--wrap=true")
    preempted = wait_for(lambda: [n for n, task in tasks().items() if task["Restarts"] == "1"], "preemption")[0]
    bits = str(3 + int(preempted))  # jobs are in the order of the command line
    wait_for(lambda: grid.states()[bits] == "interrupted", "the preempted job's end")

    # ... and another is killed, so that it writes no answer.
    killed = next(b for b, state in grid.states().items() if state == "running")
    os.kill(process_of(grid.cells()[killed]), signal.SIGKILL)

    # SLURM lets a preempted job wait for two minutes; not here. But until the grace time is over it may still end what
    # has the job's number, and the job has the same one when it starts again.
    wait_for(lambda: tasks()[preempted]["JobState"] == "PENDING", "the preempted job in the queue")
    time.sleep(max(0, asked + GRACE - time.monotonic()))
    wait_for(
        lambda: _succeeds(slurm, "scontrol", "update", f"jobid={tasks()[preempted]['JobId']}", "StartTime=now"), "it"
    )
    said, _ = process.communicate(timeout=180)

    assert process.returncode == 1
    cells = grid.cells()
    assert {b: cell.state for b, cell in cells.items()} == {b: "failed" if b == killed else "done" for b in cells}, said
    assert "ended as FAILED without an answer" in cells[killed].reason
    assert said.splitlines()[-1].startswith(f"error: its SLURM job {_array(tasks())}_{int(killed) - 3} ended as FAILED")
    assert "hydra/launcher=slurm" in cells[bits].command
    log = (grid.results / "hydra").rglob(f"*_{preempted}_0_log.err")
    assert "this job is preempted" in next(log).read_text()

    # What was there before is used, not computed again.
    assert grid.computed().items() >= computed.items()
    assert grid.finished_runs() == 1
    status, said = grid.run()
    assert status == 0, said
    assert set(grid.states().values()) == {"done"}
    assert grid.finished_runs() == 2
    assert grid.computed().items() >= computed.items()


def _array(tasks):
    return next(iter(tasks.values()))["ArrayJobId"]


def _succeeds(slurm, *command):
    with contextlib.suppress(subprocess.CalledProcessError):
        slurm(*command)
        return True
    return False
