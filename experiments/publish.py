"""Copy the runs of experiments into the repository, with their tables and figures beside the paper's.

Roots of data are written as ${LAMPQ_DATA}; nothing of a machine's paths remains, and no image of a data set.
"""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

from lampq.atomic_write import write_text
from lampq.cells import NOT_AVAILABLE
from lampq.errors import LampQError

from . import grid
from .measured import Run, measured
from .report import COMPUTED, check_name, report

FILES = (
    "config.yaml",
    "environment.json",
    "identity.json",
    "images.json",
    "metrics.json",
    "outcomes.csv",
    "precision_draws.csv",
    "sample_outcomes.csv",
    "sensitivity.csv",
    "plan.json",
)


PICTURES = ("detections.png",)
"""Figures that show images: of the embedded data sets only; others are not ours to hand on."""


def publish(chosen: list[str], results: Path) -> list[Path]:
    """Copy the cells of experiments and their runs to ``results/published``, and build tables and figures there.

    What lies there already of other experiments stays; a cell that was published before is replaced.

    Returns:
        What the report wrote.

    Raises:
        LampQError: there is no such experiment, or it has no cells.
    """
    target = results / "published"
    for name in map(check_name, chosen):
        if name == grid.NAME:
            _publish_grid(results, target)
            continue
        rows = measured(results, name)
        if not rows and name not in COMPUTED:
            raise LampQError(f"{name}: no cells under {results / 'experiments'}; run python run.py experiment={name}")
        for row in rows:
            if row.run is not None:
                _copy(row.run.folder, target / "runs" / row.run.fingerprint)
                _show_made_images(row.run, target / "synthetic_images")
            elif row.state != NOT_AVAILABLE:
                continue
            command = row.cell.command and without_machine(row.cell.command)
            overrides = {key: without_machine(value) for key, value in row.cell.overrides.items()}
            replace(row.cell, overrides=overrides, command=command, host=None, traceback=None).write(target)
    return report(target)


def _publish_grid(results: Path, target: Path) -> None:
    """The tables of all points, the presets and the winners' runs: hundreds of runs are too much for a repository."""
    searches = grid.searches(results)
    if not searches:
        raise LampQError(f"grid: no cells under {results / 'experiments'}; run python run.py experiment=grid")
    for search in searches:
        grid.grid_table(search).write(target / "tables")
        grid.write_preset(search, target)
        best = search.rows[0].run
        _copy(best.folder, target / "runs" / best.fingerprint)
    for path in (target / "tables").glob("grid_*"):
        write_text(path, without_machine(path.read_text()))


def _copy(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    drawn = json.loads((source / "metrics.json").read_text()).get("dataset", "").startswith("shapes")
    for path in sorted(source.iterdir()):
        if path.name in FILES:
            (folder / path.name).write_text(without_machine(path.read_text()))
        elif path.suffix == ".png" and (path.name not in PICTURES or drawn):
            shutil.copyfile(path, folder / path.name)


def _show_made_images(run: Run, folder: Path) -> None:
    """The contact sheet of the first images that were made for a run, once for all runs that use them."""
    sheet, made = run.folder / "synthetic_images" / "batch0.png", run.identity["images"].get("calibration", {})
    target = folder / f"{made['made'][0]}.jpg" if "made" in made else None
    if target is None or not sheet.is_file() or target.is_file():
        return
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(sheet) as image:
        image.convert("RGB").save(target, quality=85)


def without_machine(text: str) -> str:
    """Replace the data root, the checkout and the home folder in a text; other absolute paths become their names."""
    roots = {os.environ.get("LAMPQ_DATA"): "${LAMPQ_DATA}", os.environ.get("LAMPQ_CACHE"): "${LAMPQ_CACHE}"}
    roots |= {str(Path.cwd()): ".", str(Path.home()): "~"}
    for root, name in roots.items():
        if root:
            for spelling in {root, os.path.relpath(root), os.path.realpath(root)} - {"."}:
                text = text.replace(spelling.rstrip("/") + "/", name + "/")
    return re.sub(r"(?<![\w.~}])/(?:[\w.+-]+/)+([\w.+-]+)", r"\1", text)
