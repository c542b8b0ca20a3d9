"""Grids run as a user runs them, in a process, and what becomes of their cells."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lampq.launch.cells import Cell, read_cells

CHECKOUT = Path(__file__).resolve().parents[2]
FEW_IMAGES = ("dataset.calibration_images=8", "dataset.sample_images=16", "dataset.validation_images=64")
QUICK = ("scale=smoke", "base_quantizer=rtn", "allocator=uniform")
"""A cell takes a second or two."""
LONG_ENOUGH = (
    *("scale=smoke", "effort=published", "effort.rounds=1", "effort.candidates=32"),
    *("base_quantizer=adalog", "allocator=uniform", "dataset.validation_images=64"),
)
"""A cell takes about ten seconds of one core, so that there is time to get at its process."""


class Grid:
    """A grid in a folder: its command can be run several times, alone or to be interfered with."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder, self.results = folder, folder / "results"
        self.command = [sys.executable, str(CHECKOUT / "run.py"), "-m", *arguments]
        own = {"LAMPQ_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::UserWarning"}
        self.environment = {**os.environ, **own, **environment}

    def start(self) -> subprocess.Popen:
        self.folder.mkdir(exist_ok=True)
        return subprocess.Popen(
            self.command,
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self) -> tuple[int, str]:
        """Exit status and everything that was said."""
        process = self.start()
        said, _ = process.communicate(timeout=300)
        return process.returncode, said

    def cells(self) -> dict[str, Cell]:
        """Cells by their bits."""
        return {cell.overrides["bits"]: cell for cell in read_cells(self.results, "unnamed")}

    def states(self) -> dict[str, str]:
        return {bits: cell.state_now(self.results) for bits, cell in self.cells().items()}

    def finished_runs(self) -> int:
        return len(list(self.results.glob("runs/*/metrics.json")))

    def computed(self) -> dict[Path, float]:
        """When each stored result was computed."""
        return {path: path.stat().st_mtime for path in (self.folder / "cache").rglob("*.safetensors")}


def process_of(cell: Cell) -> int:
    """The process that a launcher started for a running cell."""
    return int(cell.host.split()[-1])


def worker_of(cell: Cell) -> int | None:
    """The process of our own that the work of a running cell is done in."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            command = status.with_name("cmdline").read_text()
        except OSError:
            continue
        if parent == process_of(cell) and "spawn_main" in command:
            return int(status.parent.name)
    return None


def wait_for(condition: Callable[[], object], what: str, seconds: float = 120) -> object:
    """What the condition returns, as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds} seconds")
