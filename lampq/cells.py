"""Cells of a grid: what was asked of each job, how it stands, and which runs it led to. One small file a cell.

A grid named NAME (an experiment, or ``unnamed``) has its cells in ``results/experiments/NAME/``; the files are what its
table is put together from, and what tells after a crash which jobs are missing.
"""

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from lampq.atomic_write import write_text
from lampq.fingerprint import fingerprint
from lampq.lock import hold, is_held

PLANNED, RUNNING, DONE, FAILED, NOT_AVAILABLE = "planned", "running", "done", "failed", "not available"
INTERRUPTED = "interrupted"
"""How a cell is told whose job began, did not end, and is running no more."""

CHANGE_NO_NUMBER = (
    "paths",
    "hydra",
    "logger",
    "device",
    "threads",
    "force",
    "prefix_memory_gib",
    "observation_memory_gib",
    "dataset.batch_size",
    "dataset.workers",
    "experiment",
)
"""Keys, and groups of keys, of which a cell's results do not depend."""


@dataclass(frozen=True)
class Cell:
    """One job of a grid.

    Attributes:
        experiment: name of the grid.
        overrides: what makes the cell, value by key, as on the command line.
        state: planned, running, done, failed, or not available (an option that does not exist).
        fingerprints: of its runs, the one asked for last.
        reason: why it failed or is not available, in one line.
        traceback: of an error that was not expected.
        command, host, started, finished, seconds: of its last try.
    """

    experiment: str
    overrides: dict[str, str]
    state: str = PLANNED
    fingerprints: list[str] = field(default_factory=list)
    reason: str | None = None
    traceback: str | None = None
    command: str | None = None
    host: str | None = None
    started: str | None = None
    finished: str | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, experiment: str | None, overrides: list[str]) -> "Cell":
        """The cell of a job's overrides; what changes no number is left out, and the order does not matter."""
        pairs = [override.partition("=") for override in overrides]
        kept = {key: value for key, _, value in pairs if not _changes_no_number(key)}
        return cls(experiment or "unnamed", dict(sorted(kept.items())))

    @property
    def name(self) -> str:
        """A hash of what the cell is."""
        return fingerprint(self.overrides)

    def folder(self, results: Path) -> Path:
        return Path(results) / "experiments" / self.experiment

    def path(self, results: Path) -> Path:
        return self.folder(results) / f"{self.name}.json"

    def write(self, results: Path) -> None:
        self.folder(results).mkdir(parents=True, exist_ok=True)
        write_text(self.path(results), json.dumps(asdict(self), indent=1) + "\n")

    def plan(self, results: Path) -> None:
        """Write that the cell is to be computed, unless something is known of it already."""
        try:
            known = read_cell(self.path(results)).state
        except (OSError, ValueError, TypeError):  # none, or one that cannot be read
            known = None
        if known in (None, NOT_AVAILABLE):
            self.write(results)

    @contextmanager
    def running(self, results: Path) -> Iterator["Cell"]:
        """Hold the cell while its job runs: a second job of the same cell waits."""
        with hold(self.lock(results), f"the cell {self.experiment} {self.name}"):
            now = datetime.now(UTC).isoformat(timespec="seconds")
            command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
            begun = replace(self, state=RUNNING, command=command, host=f"{platform.node()} {os.getpid()}", started=now)
            begun.write(results)
            yield begun

    def end(self, results: Path, state: str, **changes: object) -> None:
        """Write how the job ended."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        replace(self, state=state, finished=now, **changes).write(results)

    def state_now(self, results: Path) -> str:
        """The state, ``interrupted`` where the file says running and nobody is."""
        if self.state != RUNNING:
            return self.state
        return RUNNING if is_held(self.lock(results)) else INTERRUPTED

    def lock(self, results: Path) -> Path:
        """The file of the lock that is held while the job runs."""
        return Path(results) / ".locks" / f"{self.experiment}-{self.name}"


def read_cell(path: Path) -> Cell:
    """The cell in a file.

    Raises:
        OSError, ValueError, TypeError: it cannot be read.
    """
    return Cell(**json.loads(path.read_text()))


def read_cells(results: Path, experiment: str) -> list[Cell]:
    """All cells of a grid, in the order of their overrides; files that cannot be read are passed over."""
    cells = []
    for path in sorted((Path(results) / "experiments" / experiment).glob("*.json")):
        try:
            cells.append(read_cell(path))
        except (OSError, ValueError, TypeError):
            continue
    return sorted(cells, key=lambda cell: list(cell.overrides.items()))


def experiments_with_cells(results: Path) -> list[str]:
    """Names of the grids that have cells."""
    return sorted(path.name for path in (Path(results) / "experiments").glob("*") if any(path.glob("*.json")))


def _changes_no_number(key: str) -> bool:
    bare = key.lstrip("+~")
    return any(bare == name or bare.startswith((f"{name}.", f"{name}/")) for name in CHANGE_NO_NUMBER)
