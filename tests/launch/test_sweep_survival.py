"""Sweeps that are killed, doubled or run out of disk end with the table of one that was left alone.

Each test takes 10 to 25 s: it starts two to four commands, each of which has a process that imports PyTorch.
"""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.__main__ import main
from lampq.launch.cells import DONE, read_cells
from tests.launch.grids import FEW_IMAGES

ROOT = Path(__file__).resolve().parents[2]
METHODS = "method=adalog,lampq_without_update,lampq"
SWEEP = ["experiment=table6", "scale=smoke", METHODS, "base_quantizer=rtn", *FEW_IMAGES]
TIMES = ("seconds", "started", "commit", "command")
"""Columns that may differ between two sweeps, by how they begin."""

pytestmark = pytest.mark.slow


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "LAMPQ_CACHE": str(folder / "cache")}
    command = [sys.executable, "run.py", *SWEEP, *arguments, f"paths.results={folder}/results"]
    with (folder / "output.txt").open("a") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=heed_interrupts,
        )


def heed_interrupts() -> None:
    """Tests that a shell runs in the background inherit that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results" / "tables" / "table6.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if not key.startswith(TIMES)} for row in rows]


def assert_complete(folder: Path, expected: list[dict[str, str]]) -> None:
    assert table(folder) == expected, (folder / "output.txt").read_text()[-3000:]
    with (folder / "results" / "runs.csv").open(newline="") as file:
        fingerprints = [row["fingerprint"] for row in csv.DictReader(file)]
    assert len(fingerprints) == len(set(fingerprints))
    assert set(fingerprints) == {path.parent.name for path in (folder / "results" / "runs").glob("*/metrics.json")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The table of a sweep that was left alone, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    assert start(folder).wait() == 0, (folder / "output.txt").read_text()[-3000:]
    return table(folder), time.monotonic() - began


def test_interrupted_then_killed_and_started_again_each_time(undisturbed, tmp_path):
    expected, seconds = undisturbed
    sweep = start(tmp_path)
    while sweep.poll() is None and not list((tmp_path / "results" / "runs").glob("*/metrics.json")):
        time.sleep(0.1)
    os.killpg(sweep.pid, signal.SIGINT)  # as Ctrl-C: to the job as well
    assert sweep.wait(20) == 130
    assert "interrupted; run the same command again to resume" in (tmp_path / "output.txt").read_text()
    sweep = start(tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        sweep.wait(random.Random(int(time.time())).uniform(1.0, min(seconds * 0.4, 6.0)))
    sweep.kill()  # the process alone: its job has to notice by itself
    sweep.wait()
    assert start(tmp_path).wait() == 0
    assert_complete(tmp_path, expected)


def test_two_sweeps_at_once_neither_lose_nor_double_a_row(undisturbed, tmp_path):
    expected, _ = undisturbed
    both = [start(tmp_path), start(tmp_path)]
    assert [sweep.wait() for sweep in both] == [0, 0]
    assert_complete(tmp_path, expected)
    # Each run was computed by one of them: its log begins once.
    logs = [path.read_text() for path in (tmp_path / "results" / "runs").glob("*/log.txt")]
    assert sum(log.count("initial assignment by") for log in logs) == sum(
        "initial assignment by" in log for log in logs
    )


def test_a_job_whose_process_is_killed_fails_alone(undisturbed, tmp_path, capsys):
    expected, _ = undisturbed
    sweep = start(tmp_path)
    children = []
    while not children and sweep.poll() is None:
        time.sleep(0.2)
        listed = subprocess.run(["pgrep", "-P", str(sweep.pid), "-f", "spawn_main"], capture_output=True, text=True)
        started = list((tmp_path / "results" / "runs").glob("*/config.yaml"))
        children = listed.stdout.split() if started else []
    os.kill(int(children[0]), signal.SIGKILL)
    assert sweep.wait() == 1
    output = (tmp_path / "output.txt").read_text()
    assert "SIGKILL" in output.splitlines()[-1] and output.count("failed: ") == 1
    states = [cell.state for cell in read_cells(tmp_path / "results", "table6")]
    assert states.count("failed") == 1 and states.count(DONE) == 2
    assert main(["status", "table6", "--results", str(tmp_path / "results")]) == 1
    assert "SIGKILL" in capsys.readouterr().out
    assert start(tmp_path).wait() == 0
    assert_complete(tmp_path, expected)


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="needs root, to mount a small file system"
)
def test_a_full_disk_is_one_line_a_job_and_nothing_is_lost(undisturbed, tmp_path):
    expected, _ = undisturbed
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        (tmp_path / "results").symlink_to(disk)
        assert start(tmp_path).wait() == 1
        output = (tmp_path / "output.txt").read_text()
        assert "the disk is full; make room and run the same command again to resume" in output.splitlines()[-1]
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        assert start(tmp_path).wait() == 0
        assert_complete(tmp_path, expected)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
