"""Copy chosen runs into the repository, with a table that has the paper's figures in columns of their own.

Roots of data are written as ${LAMPQ_DATA}; nothing of a machine's paths remains, and no image of a data set.
"""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

from lampq.cells import NOT_AVAILABLE
from lampq.errors import LampQError
from lampq.limits import did_you_mean

from .measured import measured
from .report import COMPUTED, names, report
from .run_table import write_run_table

FILES = ("config.yaml", "environment.json", "identity.json", "images.json", "metrics.json", "outcomes.csv", "plan.json")


def publish(name: str, fingerprints: list[str], results: Path) -> Path:
    """Copy finished runs to ``results/NAME/`` and write ``table.csv`` and ``table.md`` there.

    Args:
        name: folder, for example ``deit_tiny``.
        fingerprints: runs under ``results/runs``, in the order of the table's rows; beginnings suffice.

    Raises:
        LampQError: no such run, not finished, or none given.
    """
    if not fingerprints:
        near = did_you_mean(name, names())
        raise LampQError(f"{name}: no such experiment{near}; to publish runs, give fingerprints after a folder's name")
    target = results / name
    folders = []
    for prefix in fingerprints:
        source = _find(results / "runs", prefix)
        folder = target / source.name
        for file in FILES:
            _read(source / file)  # all there, before anything is written
        _copy(source, folder)
        folders.append(folder)
    write_run_table(target, folders)
    return target


def publish_experiments(chosen: list[str], results: Path) -> list[Path]:
    """Copy the cells of experiments and their runs to ``results/published``, and build tables and figures there.

    What lies there already of other experiments stays; a cell that was published before is replaced.

    Returns:
        What the report wrote.

    Raises:
        LampQError: an experiment has no cells.
    """
    target = results / "published"
    for name in chosen:
        rows = measured(results, name)
        if not rows and name not in COMPUTED:
            raise LampQError(f"{name}: no cells under {results / 'experiments'}; run python run.py experiment={name}")
        for row in rows:
            if row.run is not None:
                _copy(row.run.folder, target / "runs" / row.run.fingerprint)
            elif row.state != NOT_AVAILABLE:
                continue
            command = row.cell.command and without_machine(row.cell.command)
            overrides = {key: without_machine(value) for key, value in row.cell.overrides.items()}
            replace(row.cell, overrides=overrides, command=command, host=None, traceback=None).write(target)
    return report(target)


def _copy(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.name in (*FILES, "sensitivity.csv"):
            (folder / path.name).write_text(without_machine(path.read_text()))
        elif path.suffix == ".png":
            shutil.copyfile(path, folder / path.name)


def without_machine(text: str) -> str:
    """Replace the data root, the checkout and the home folder in a text; other absolute paths become their names."""
    roots = {os.environ.get("LAMPQ_DATA"): "${LAMPQ_DATA}", os.environ.get("LAMPQ_CACHE"): "${LAMPQ_CACHE}"}
    roots |= {str(Path.cwd()): ".", str(Path.home()): "~"}
    for root, name in roots.items():
        if root:
            for spelling in {root, os.path.relpath(root), os.path.realpath(root)} - {"."}:
                text = text.replace(spelling.rstrip("/") + "/", name + "/")
    return re.sub(r"(?<![\w.~}])/(?:[\w.+-]+/)+([\w.+-]+)", r"\1", text)


def _find(runs: Path, prefix: str) -> Path:
    found = sorted(runs.glob(f"{prefix}*/metrics.json"))
    if len(found) != 1:
        what = "no finished run" if not found else f"{len(found)} runs"
        raise LampQError(f"{prefix}: {what} under {runs} begins like this; give a fingerprint from results/runs.csv")
    return found[0].parent


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise LampQError(f"{path}: {error.strerror}; run it again with force=true") from error
