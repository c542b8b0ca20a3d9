"""Copy the runs of experiments into the repository, with their tables and figures beside the paper's.

Roots of data are written as ${LAMPQ_DATA}; nothing of a machine's paths remains, and no image of a data set.
"""

import io
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

from PIL import Image

from lampq.errors import LampQError
from lampq.launch.cells import NOT_AVAILABLE
from lampq.limits import word
from lampq.runs.finished_run import DIGESTS, FILES, VERIFIED, DamagedRun, present, read_plain, read_run, seal
from lampq.storage.atomic_write import write_bytes, write_text

from . import grid
from .frame import frame, runs_with
from .frame import left_out as damage
from .measured import Run
from .records_table import NAME as RECORDS
from .report import COMPUTED, check_name, report
from .verify_table import NAME as VERIFY

log = logging.getLogger(__name__)

DRAWN = ("sensitivity.png", "synthesis.png")
"""Figures of a run; its bits are shown by the page, from its plan."""
WITH_IMAGES = ("detections.png",)
"""Figures that show images: of the embedded data sets only; others are not ours to hand on."""


def publish(chosen: list[str], results: Path, left_out: list[str] | None = None) -> list[Path]:
    """Copy the cells of experiments and their runs to ``results/published``, and build tables and figures there.

    What lies there already of other experiments stays; a cell that was published before is replaced. Nothing that is
    damaged is copied, and no link is followed.

    Args:
        left_out: gets a line on everything that is damaged; None logs them.

    Returns:
        What the report wrote.

    Raises:
        LampQError: there is no such experiment, or it has no cells, or a link would lead out of the target.
    """
    target, lines = results / "published", []
    for folder in ("runs", "experiments", "tables", "figures", "presets/lampq", "synthetic_images"):
        _inside(target, *folder.split("/"))
    for name in map(check_name, chosen):
        if name == VERIFY:
            _publish_verified(results, target, lines)
            continue
        if name == RECORDS:
            continue  # made of what is published
        rows = frame(results, [name])
        if rows.empty and name not in COMPUTED:
            raise LampQError(f"{name}: no cells under {results / 'experiments'}; run python run.py experiment={name}")
        lines += damage(results, rows, [name])
        if name == grid.NAME:
            _publish_grid(grid.searches(rows), target)
            continue
        for row in rows.itertuples():
            if row.run is not None:
                try:
                    _copy(row.run, _inside(target, "runs", row.run.fingerprint), lines)
                except DamagedRun as error:
                    lines.append(str(error))
                    continue
                _show_made_images(row.run, target)
            elif row.state != NOT_AVAILABLE:
                continue
            command = row.cell.command and without_machine(row.cell.command)
            overrides = {key: without_machine(value) for key, value in row.asked.items()}
            _inside(target, "experiments", name)
            replace(row.cell, overrides=overrides, command=command, host=None, traceback=None).write(target)
    for line in lines if left_out is None else ():
        log.warning("left out: %s", line)
    if left_out is not None:
        left_out += lines
    return report(target, left_out=left_out)


def _publish_grid(searches: list[grid.Search], target: Path) -> None:
    """The tables of all points, the presets and the winners' runs: hundreds of runs are too much for a repository."""
    if not searches:
        raise LampQError("grid: no point of it is measured; run python run.py experiment=grid")
    tables = target / "tables"
    for search in searches:
        grid.grid_table(search).write(tables)
        grid.write_preset(search, target)
        best = search.best.run
        _copy(best, _inside(target, "runs", best.fingerprint), [])
    for path in tables.glob("grid_*"):
        write_text(path, without_machine(path.read_text(encoding="utf-8")))


def _publish_verified(results: Path, target: Path, lines: list[str]) -> None:
    """The runs that were verified, whatever experiment they are of."""
    rows = runs_with(results, VERIFIED)
    if rows.empty:
        raise LampQError(f"{VERIFY}: no run under {results / 'runs'} was; run python -m experiments verify RUN")
    lines += rows.damage.dropna()
    for run in rows.run.dropna():
        _copy(run, _inside(target, "runs", run.fingerprint), lines)


def _inside(target: Path, *names: str) -> Path:
    """A folder under the target, none of whose parts is a link that leads elsewhere."""
    path = target
    for name in names:
        path = path / name
        if path.is_symlink():
            raise LampQError(f"{path}: is a link, which publish does not follow; remove it")
    return path


def _copy(run: Run, folder: Path, lines: list[str]) -> None:
    """Copy a run's files, checked once more as they are read, and seal the copy, whose paths are replaced.

    Raises:
        DamagedRun: a file has changed.
    """
    read_run(run.folder)
    texts = {name: without_machine(read_plain(run.folder, name).decode()) for name in present(run.folder)}
    folder.mkdir(parents=True, exist_ok=True)
    for name in (DIGESTS, *set(FILES).difference(texts)):
        (folder / name).unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    seal(folder)
    if (run.folder / VERIFIED).is_file():  # weights in model/ are not ours to hand on
        write_text(folder / VERIFIED, without_machine(read_plain(run.folder, VERIFIED).decode()))
    drawn = run.metrics["dataset"].startswith("shapes")
    for name in (*DRAWN, *(WITH_IMAGES if drawn else ())):
        if not (run.folder / name).is_symlink() and not (run.folder / name).exists():
            continue
        try:
            write_bytes(folder / name, _picture(run.folder, name))
        except DamagedRun as error:
            lines.append(f"{run.folder}: {error.file} {error.reason}; remove it, and run the run's command again")


def _picture(folder: Path, name: str) -> bytes:
    """A PNG's bytes.

    Raises:
        DamagedRun: it is a link, or no PNG.
    """
    content = read_plain(folder, name)
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.load()
    except Exception as error:  # Pillow has no error of its own for what is damaged
        raise DamagedRun(folder, name, "is no picture") from error
    return content


def _show_made_images(run: Run, target: Path) -> None:
    """The contact sheet of the first images that were made for a run, once for all runs that use them."""
    made = run.identity["images"].get("calibration", {})
    if "made" not in made or not (run.folder / "synthetic_images" / "batch0.png").is_file():
        return
    path = target / "synthetic_images" / f"{word('images.calibration.made', made['made'][0])}.jpg"
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(_picture(run.folder / "synthetic_images", "batch0.png"))) as image:
        image.convert("RGB").save(buffer, format="JPEG", quality=85)
    write_bytes(path, buffer.getvalue())


def without_machine(text: str) -> str:
    """Replace the data root, the checkout and the home folder in a text; other absolute paths become their names."""
    roots = {os.environ.get("LAMPQ_DATA"): "${LAMPQ_DATA}", os.environ.get("LAMPQ_CACHE"): "${LAMPQ_CACHE}"}
    roots |= {str(Path.cwd()): ".", str(Path.home()): "~"}
    for root, name in roots.items():
        if root:
            for spelling in {root, os.path.relpath(root), os.path.realpath(root)} - {"."}:
                text = text.replace(spelling.rstrip("/") + "/", name + "/")
    return re.sub(r"(?<![\w.~}])/(?:[\w.+-]+/)+([\w.+-]+)", r"\1", text)
