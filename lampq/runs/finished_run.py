"""A finished run's folder, sealed with digests of its files: every reader sees whether they are all there and agree."""

import hashlib
import json
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from lampq.errors import LampQError
from lampq.limits import number, text
from lampq.plan.bit_plan import BitPlan
from lampq.storage.atomic_write import write_text
from lampq.storage.fingerprint import fingerprint

DIGESTS = "digests.json"
"""The seal: SHA-256 by file name. It is written last of all, and is what makes a run finished."""

ALWAYS = ("config.yaml", "environment.json", "identity.json", "images.json", "metrics.json")
SOMETIMES = ("outcomes.csv", "plan.json", "precision_draws.csv", "sample_outcomes.csv", "sensitivity.csv")
FILES = (*ALWAYS, *SOMETIMES)
"""Files of a run that numbers are read from. Figures and the log are drawn and written beside them."""

VERIFIED = "verify.csv"
"""What `python -m experiments verify` measures of a run afterwards; no part of the seal."""

LABELS = (
    "fingerprint",
    "model",
    "dataset",
    "base_quantizer",
    "allocator",
    "weight_bits",
    "activation_bits",
    "seed",
)
"""What metrics.json names of every run."""

LARGEST = 1 << 30
"""Bytes; a larger file is none of a run's."""


class DamagedRun(LampQError):
    """A run's folder whose files are not as they were written: one line with the folder, the file and the reason."""

    def __init__(self, folder: Path, file: str, reason: str) -> None:
        super().__init__(f"{folder}: {file} {reason}; run its command again to compute it again")
        self.folder, self.file, self.reason = folder, file, reason


@dataclass(frozen=True)
class FinishedRun:
    """A finished run whose files agree with each other; `read_run` makes it.

    Attributes:
        folder: ``runs/FINGERPRINT`` of a results folder.
        metrics, identity, environment: what the JSON files of these names hold.
    """

    folder: Path
    metrics: dict[str, Any]
    identity: dict[str, Any]
    environment: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return self.folder.name

    @cached_property
    def plan(self) -> BitPlan:
        return BitPlan.read(self.folder / "plan.json")

    @cached_property
    def origin(self) -> dict[str, Any]:
        """Where its plan comes from, without the rest of it."""
        return json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))["origin"]

    @cached_property
    def outcomes(self) -> tuple[list[int], list[int]]:
        """Which validation images full precision and the quantized model get right: 1 or 0 an image."""
        columns = self._columns("outcomes.csv")
        return [int(value) for value in columns["full_precision_top1"]], [int(value) for value in columns["top1"]]

    @cached_property
    def precision_draws(self) -> dict[str, list[float]]:
        """A detector's average precision (percent) on every draw of validation images, by name; empty for others."""
        columns = self._columns("precision_draws.csv")
        return {name: [float(value) for value in values] for name, values in columns.items()}

    @cached_property
    def sample_outcomes(self) -> list[int] | None:
        """Which images of D the quantized model gets right: 1 or 0 an image; None where nothing was searched on D."""
        columns = self._columns("sample_outcomes.csv")
        return [int(value) for value in columns["top1"]] if columns else None

    def _columns(self, name: str) -> dict[str, list[str]]:
        """A CSV file by column; empty where it is missing. Numbers alone, so that there is nothing to unquote."""
        path = self.folder / name
        if not path.is_file():
            return {}
        header, *lines = (line.split(",") for line in path.read_text(encoding="utf-8").splitlines())
        return dict(zip(header, map(list, zip(*lines, strict=True)), strict=True)) if lines else {}


AnyRun = TypeVar("AnyRun", bound=FinishedRun)


def seal(folder: Path) -> None:
    """Write the digests of a run's files as they are now; from then on a change of any of them is noticed.

    Raises:
        DamagedRun: a file cannot be read, or is no plain file.
        OSError: the digests cannot be written.
    """
    digests = {name: _digest(read_plain(folder, name)) for name in present(folder)}
    write_text(folder / DIGESTS, json.dumps(digests, indent=1) + "\n")


def present(folder: Path) -> list[str]:
    """Which of `FILES` a folder has, whatever they are."""
    return [name for name in FILES if _is_there(folder / name)]


def ended(folder: Path) -> bool:
    """Whether a run has ever ended here: a folder without either file is one of a run under way or interrupted."""
    return _is_there(folder / DIGESTS) or _is_there(folder / "metrics.json")


def read_run(folder: Path, kind: type[AnyRun] = FinishedRun) -> AnyRun:
    """The finished run in a folder: every file is there, is what was written, and belongs to the folder's name.

    Args:
        kind: what is made of it.

    Raises:
        DamagedRun: it is not finished, or a file is missing, changed, of another run, or no plain file.
    """
    if not _is_there(folder / DIGESTS):
        reason = "is missing: the run was interrupted, or made before runs had digests"
        raise DamagedRun(folder, DIGESTS, reason if ended(folder) else "is missing: the run is not finished")
    digests = _mapping(folder, DIGESTS, read_plain(folder, DIGESTS))
    names = present(folder)
    for name in sorted({*ALWAYS, *digests}.difference(names)):
        raise DamagedRun(folder, name, "is missing")
    contents = {}
    for name in names:
        content = read_plain(folder, name)
        if digests.get(name) != _digest(content):
            raise DamagedRun(folder, name, "has changed since it was written" if name in digests else "was added")
        if name in ("metrics.json", "identity.json", "environment.json"):
            contents[name] = _mapping(folder, name, content)
    metrics, identity, environment = (contents[f"{key}.json"] for key in ("metrics", "identity", "environment"))
    if fingerprint(identity) != folder.name:
        raise DamagedRun(folder, "identity.json", "is another run's")
    _check_labels(folder, metrics)
    return kind(folder, metrics, identity, environment)


def read_plain(folder: Path, name: str) -> bytes:
    """What a file holds that is no link, folder or device.

    Raises:
        DamagedRun: it is none, or cannot be read.
    """
    path = folder / name
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise DamagedRun(folder, name, "is a link" if stat.S_ISLNK(status.st_mode) else "is no file")
        if status.st_size > LARGEST:
            raise DamagedRun(folder, name, f"has {status.st_size:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise DamagedRun(folder, name, f"cannot be read ({error.strerror})") from error


def signature(folder: Path) -> str:
    """A hash of the sizes and times of a run's files: as long as it stays, nothing was written to any of them.

    Raises:
        OSError: the folder cannot be read.
    """
    told = []
    for name in (DIGESTS, *FILES):
        try:
            s = (folder / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        told.append([name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_mode])
    return fingerprint(told)


def _check_labels(folder: Path, metrics: dict[str, Any]) -> None:
    missing = [name for name in LABELS if name not in metrics]
    if missing:
        raise DamagedRun(folder, "metrics.json", f"is without {', '.join(missing)}")
    if metrics["fingerprint"] != folder.name:
        raise DamagedRun(folder, "metrics.json", "is another run's")
    try:
        for name in ("model", "dataset", "base_quantizer", "allocator"):
            text(name, metrics[name])
        for name in ("weight_bits", "activation_bits", "seed"):
            number(name, metrics[name])
    except LampQError as error:
        raise DamagedRun(folder, "metrics.json", f"is not what a run writes ({error})") from error


def _mapping(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedRun(folder, name, "is not JSON") from error
    if not isinstance(found, dict):
        raise DamagedRun(folder, name, "is no mapping of names to values")
    return found


def _is_there(path: Path) -> bool:
    """Whether a name is taken, also by a link to nowhere or something that must not be read."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
