"""The record of a run: what was asked, where it ran, what came out. One folder a run, named by its fingerprint."""

import csv
import json
import logging
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

import yaml

from lampq.artefact.files import SAVED
from lampq.plan.bit_plan import BitPlan
from lampq.runs.finished_run import DIGESTS, FILES, VERIFIED, DamagedRun, read_run, seal
from lampq.runs.kernels import kernels
from lampq.storage.atomic_write import write_rows, write_text
from lampq.storage.fingerprint import fingerprint
from lampq.storage.lock import hold

log = logging.getLogger(__name__)

MODEL = "model"
"""The folder of a run's saved model."""

PACKAGES = ("torch", "torchvision", "timm", "hydra-core", "omegaconf", "pulp", "numpy")


class RunRecord:
    """A folder ``runs/FINGERPRINT`` with config.yaml, environment.json, plan.json, metrics.json, log.txt, figures,
    and digests.json, which is written last.

    The fingerprint covers what the chosen parts consume and nothing else, so a run that differs in its logger, its
    device or its paths is the same run.

    Args:
        results: the results folder.
        identity: what the numbers depend on; JSON-able.
        config: the resolved configuration, as the user gave it.
    """

    def __init__(self, results: Path, identity: dict, config: dict) -> None:
        self.identity = identity
        self.config = config
        self.fingerprint = fingerprint(identity)
        self.folder = Path(results) / "runs" / self.fingerprint
        self._handler: logging.Handler | None = None

    @property
    def finished(self) -> bool:
        """Whether the run has ended and its files are all as they were written."""
        return self.damage is None

    @property
    def damage(self) -> DamagedRun | None:
        """Why the run is not finished, or None."""
        try:
            read_run(self.folder)
        except DamagedRun as error:
            return error
        return None

    @property
    def metrics(self) -> dict:
        """Metrics of a finished run.

        Raises:
            DamagedRun: it is not finished.
        """
        return read_run(self.folder).metrics

    @property
    def plan(self) -> BitPlan:
        return BitPlan.read(self.folder / "plan.json")

    @property
    def model(self) -> Path:
        """Where the quantized model is saved."""
        return self.folder / MODEL

    @property
    def figure(self) -> Path:
        """The figure: the bits of each layer, or what single components cost."""
        single = (self.folder / "sensitivity.csv").is_file()
        return self.folder / ("sensitivity.png" if single else "bit_allocation.png")

    def start(self, device: str, threads: int, images: dict[str, list[str]]) -> None:
        """Write what is known before the work, and send the log to log.txt as well.

        What lies in the folder from another try goes: digests first, so that nothing half replaced counts as finished.
        """
        if not self.folder.is_dir():
            _remove(self.folder)  # a file, or a link to nowhere
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (DIGESTS, *FILES, "failure.txt", VERIFIED, *(f"{MODEL}/{name}" for name in SAVED)):
            _remove(self.folder / name)
        self._write_text("config.yaml", yaml.safe_dump(self.config, sort_keys=False))
        self._write("identity.json", self.identity)
        self._write("environment.json", environment(device, threads))
        self._write("images.json", images)
        self._handler = logging.FileHandler(self.folder / "log.txt", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger("lampq").addHandler(self._handler)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run: another process that wants the same one waits until it is released."""
        with hold(self.folder.parent.parent / ".locks" / self.fingerprint, f"run {self.fingerprint}"):
            yield

    def write_rows(self, name: str, rows: list[dict]) -> None:
        """Write rows as a CSV file of the run, one of `lampq.runs.finished_run.FILES`.

        Runs on the same images can be compared in pairs from their rows alone: the order is that of images.json.
        """
        write_rows(self.folder / name, rows)

    def write_plan(self, plan: BitPlan) -> None:
        plan.write(self.folder / "plan.json")

    def finish(self, metrics: dict) -> None:
        """Write the metrics and, last of all, the digests of everything, which make the run finished."""
        self._write("metrics.json", metrics)
        seal(self.folder)

    def fail(self, reason: str) -> None:
        """Leave the reason of a failure in the folder, if there is one."""
        if self.folder.is_dir():
            self._write_text("failure.txt", reason)

    def close(self) -> None:
        """Stop writing to log.txt."""
        if self._handler is not None:
            logging.getLogger("lampq").removeHandler(self._handler)
            self._handler.close()
            self._handler = None

    def _write(self, name: str, content: object) -> None:
        self._write_text(name, json.dumps(content, indent=1) + "\n")

    def _write_text(self, name: str, text: str) -> None:
        write_text(self.folder / name, text)


def _remove(path: Path) -> None:
    """Whatever has a name, a folder in a file's place as well; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_sensitivity(folder: Path) -> list[dict]:
    """Rows of a measurement of single components in a run's folder; numbers as numbers, what is missing as None."""
    with (folder / "sensitivity.csv").open(newline="", encoding="utf-8") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> float | str | None:
    try:
        return float(text)
    except ValueError:
        return text or None


def environment(device: str, threads: int, packages: Iterable[str] = PACKAGES) -> dict:
    """Versions, device, kernels, threads, commit, command and time: what a number has to name."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "command": " ".join([*_program(), *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "device": device,
        "processor": _processor(),
        "threads": threads,
        "kernels": kernels(device),
        "packages": versions,
    }


def _program() -> list[str]:
    """What follows `python` on the command line, without folders: a file, or -m and a module."""
    path = Path(sys.argv[0])
    return ["-m", path.parent.name] if path.name == "__main__.py" else [path.name]


@cache
def _commit() -> str | None:
    """The commit of the checkout, with "-dirty" where it has changes; None outside a checkout."""
    git, here = shutil.which("git"), Path(__file__).resolve().parent
    if git is None:
        return None
    command = [git, "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
