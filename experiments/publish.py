"""Copy chosen runs into the repository, with a table that has the paper's figures in columns of their own.

Roots of data are written as ${LAMPQ_DATA}; nothing of a machine's paths remains, and no image of a data set.
"""

import os
import re
import shutil
from pathlib import Path

from lampq.errors import LampQError

from .run_table import write_run_table

FILES = ("config.yaml", "environment.json", "identity.json", "images.json", "metrics.json", "outcomes.csv", "plan.json")
FIGURES = ("bit_allocation.png",)


def publish(name: str, fingerprints: list[str], results: Path) -> Path:
    """Copy finished runs to ``results/NAME/`` and write ``table.csv`` and ``table.md`` there.

    Args:
        name: folder, for example ``deit_tiny``.
        fingerprints: runs under ``results/runs``, in the order of the table's rows; beginnings suffice.

    Raises:
        LampQError: no such run, or not finished.
    """
    target = results / name
    folders = []
    for prefix in fingerprints:
        source = _find(results / "runs", prefix)
        folder = target / source.name
        folder.mkdir(parents=True, exist_ok=True)
        for file in FILES:
            (folder / file).write_text(without_machine(_read(source / file)))
        for figure in FIGURES:
            shutil.copyfile(source / figure, folder / figure)
        folders.append(folder)
    write_run_table(target, folders)
    return target


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
