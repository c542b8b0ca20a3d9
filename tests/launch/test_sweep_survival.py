"""Sweeps that are killed, doubled or run out of disk end with the table of one that was left alone.

Each test takes 10 to 25 s: it starts two or three commands, each of which has a process that imports PyTorch.
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
from lampq.launch.cells import read_cells
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


def runs(folder: Path, file: str) -> list[Path]:
    """Runs that have this file."""
    return list((folder / "results" / "runs").glob(f"*/{file}"))


def test_a_killed_job_fails_alone_and_an_interrupted_and_a_killed_sweep_go_on(undisturbed, tmp_path, capsys):
    expected, seconds = undisturbed
    sweep = start(tmp_path)
    while sweep.poll() is None and not runs(tmp_path, "config.yaml"):
        time.sleep(0.1)
    listed = subprocess.run(["pgrep", "-P", str(sweep.pid), "-f", "spawn_main"], capture_output=True, text=True)
    os.kill(int(listed.stdout), signal.SIGKILL)
    while sweep.poll() is None and not runs(tmp_path, "metrics.json"):  # the next one's
        time.sleep(0.1)
    os.killpg(sweep.pid, signal.SIGINT)  # as Ctrl-C: to the job as well
    assert sweep.wait(20) == 130
    output = (tmp_path / "output.txt").read_text()
    assert "interrupted; run the same command again to resume" in output and output.count("failed: ") == 1
    states = [cell.state for cell in read_cells(tmp_path / "results", "table6")]
    assert states.count("failed") == 1
    assert main(["status", "table6", "--results", str(tmp_path / "results")]) == 1
    assert "SIGKILL" in capsys.readouterr().out

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
