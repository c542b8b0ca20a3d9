"""Cells of a grid: what was asked of each job, how it stands, and which runs it led to. One small file a cell.

A grid named NAME (an experiment, or ``unnamed``) has its cells in ``results/experiments/NAME/``; the files are what its
table is put together from, and what tells after a crash which jobs are missing.
"""

import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from lampq.errors import LampQError
from lampq.limits import word
from lampq.storage.atomic_write import write_text
from lampq.storage.fingerprint import fingerprint
from lampq.storage.lock import hold, is_held

PLANNED, RUNNING, DONE, FAILED, NOT_AVAILABLE = "planned", "running", "done", "failed", "not available"
STATES = (PLANNED, RUNNING, DONE, FAILED, NOT_AVAILABLE)
"""What a cell's file says."""
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


_FINGERPRINT = re.compile(r"[0-9a-f]{1,64}")


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

    def __post_init__(self) -> None:
        """Refuse what is no cell, before anything is written for it: names become paths.

        Raises:
            LampQError: the name may be a path, or a value is of another type.
        """
        word("experiment.name", self.experiment)
        good = isinstance(self.overrides, dict) and all(isinstance(v, str) for v in self.overrides.values())
        good &= isinstance(self.fingerprints, list) and all(
            isinstance(f, str) and _FINGERPRINT.fullmatch(f) for f in self.fingerprints
        )
        good &= self.state in STATES
        texts = (self.reason, self.traceback, self.command, self.host, self.started, self.finished)
        good &= all(value is None or isinstance(value, str) for value in texts)
        if not good or not (self.seconds is None or isinstance(self.seconds, int | float)):
            raise LampQError("a value is of another type than those of a cell")

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
        try:
            self.folder(results).mkdir(parents=True, exist_ok=True)
            write_text(self.path(results), json.dumps(asdict(self), indent=1) + "\n")
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise LampQError(
                f"{error.filename2 or error.filename}: {error.strerror}, where a cell belongs; move it away"
            ) from error

    def plan(self, results: Path) -> None:
        """Write that the cell is to be computed, unless something is known of it already."""
        try:
            known = read_cell(self.path(results)).state
        except (OSError, ValueError, TypeError, LampQError):  # none, or one that cannot be read
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
        LampQError: it holds what no cell does, or the cell of another file.
    """
    if path.is_symlink() or not path.is_file():
        raise ValueError("is no file")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    cell = Cell(**data)
    if (cell.experiment, f"{cell.name}.json") != (path.parent.name, path.name):
        raise ValueError("holds the cell of another file")
    return cell


def read_cells(results: Path, experiment: str) -> list[Cell]:
    """All cells of a grid, in the order of their overrides; files that cannot be read are passed over."""
    return sorted(_read_each(results, experiment)[0], key=lambda cell: list(cell.overrides.items()))


def unreadable_cells(results: Path, experiment: str) -> list[str]:
    """A line for each file of a grid that is no cell: its path, why, and what to do."""
    return _read_each(results, experiment)[1]


def _read_each(results: Path, experiment: str) -> tuple[list[Cell], list[str]]:
    cells, lines = [], []
    for path in sorted((Path(results) / "experiments" / experiment).glob("*.json")):
        try:
            cells.append(read_cell(path))
        except (OSError, ValueError, TypeError, LampQError) as error:
            why = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
            lines.append(f"{path}: no cell ({why}); remove it, and run the experiment again")
    return cells, lines


def experiments_with_cells(results: Path) -> list[str]:
    """Names of the grids that have cells."""
    return sorted(path.name for path in (Path(results) / "experiments").glob("*") if any(path.glob("*.json")))


def _changes_no_number(key: str) -> bool:
    bare = key.lstrip("+~")
    return any(bare == name or bare.startswith((f"{name}.", f"{name}/")) for name in CHANGE_NO_NUMBER)
