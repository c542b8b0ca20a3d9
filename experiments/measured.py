"""What was measured: the cells of an experiment with the runs that they led to."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lampq.launch.cells import DONE, Cell, read_cells, unreadable_cells
from lampq.runs.finished_run import DamagedRun, FinishedRun, ended, read_run, signature

from . import paper

NOT_A_VARIATION = (
    "method",
    "model",
    "bits",
    "weight_bits",
    "activation_bits",
    "scale",
    "seed",
    "dataset",
    "dataset.root",
    "model.checkpoint",
    "bank",
)
"""Overrides that place a cell in a table; any other makes a row of its own."""


DAMAGED = "damaged"
"""State of a cell whose run's files are not as they were written."""


class Run(FinishedRun):
    """A finished run, with what tables and figures ask of it."""

    @property
    def results(self) -> Path:
        """The results folder, as one would type it: relative where it lies under the current folder."""
        folder = self.folder.parents[1]
        return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder

    @property
    def kernels(self) -> str:
        """What chose the kernels, in a few words: runs that differ in them may differ in their numbers.

        Threads are left out, since no number depends on them. Of a run recorded without kernels, the processor.
        """
        found = self.environment.get("kernels")
        if found is None:
            return f"{self.environment.get('processor')}, kernels not recorded"
        chosen = [f"{name}={value}" for name, value in found["variables"].items() if "THREADS" not in name]
        libraries = [f"{name} {found[key]}" for name, key in (("MKL", "mkl"), ("oneDNN", "onednn")) if found[key]]
        parts = [found.get("gpu"), found["vendor"], found["capability"], *libraries, *chosen]
        return " ".join(str(part) for part in parts if part)

    @property
    def sample_top1_standard_error(self) -> float:
        """Of the top-1 on D, in points."""
        share, images = self.metrics["sample_top1"] / 100, self.metrics["sample_images"]
        return 100 * math.sqrt(share * (1 - share) / (images - 1)) if images > 1 else math.inf

    @property
    def on_a_subset(self) -> bool:
        """Whether fewer validation images were used than there are, or it is not known that all were."""
        if "images" not in self.metrics:
            return False
        full = self.metrics.get("full_validation_images")
        return full is None or self.metrics["images"] < full

    def top1_at(self, full_precision: float) -> float:
        """Top-1 (percent) if the full-precision model were right on `full_precision` percent of the images.

        Images are easier or harder than the whole validation set. Ours are weighed so that full precision is as often
        right as the paper prints: the share of its right (and wrong) images that quantization gets right, times the
        paper's full-precision accuracy (and its complement).
        """
        before, after = self.outcomes
        kept = [q for f, q in zip(before, after, strict=True) if f]
        gained = [q for f, q in zip(before, after, strict=True) if not f]
        right, wrong = (statistics.fmean(values) if values else 0.0 for values in (kept, gained))
        return full_precision * right + (100 - full_precision) * wrong


def paired_difference(one: Run, other: Run) -> tuple[float, float]:
    """Points of top-1 by which `one` is ahead of `other` on the same images, and the paired standard error.

    Raises:
        ValueError: they were measured on different images.
    """
    if one.identity["images"]["validation"] != other.identity["images"]["validation"]:
        raise ValueError("different validation images")
    return mean_difference(one.outcomes[1], other.outcomes[1])


def precision_difference(one: Run, other: Run, name: str) -> tuple[float, float]:
    """Points of average precision by which `one` is ahead of `other` on the same images, and the standard error by
    resampling images, paired by draw.

    Args:
        name: ``box_ap`` or ``mask_ap``.

    Raises:
        ValueError: they were measured on different images, or before draws were kept.
    """
    if one.identity["images"]["validation"] != other.identity["images"]["validation"]:
        raise ValueError("different validation images")
    if not (one.precision_draws and other.precision_draws):
        raise ValueError("no draws of images were kept")
    pairs = zip(one.precision_draws[name], other.precision_draws[name], strict=True)
    return one.metrics[name] - other.metrics[name], statistics.stdev(a - b for a, b in pairs)


def mean_difference(one: list[int], other: list[int]) -> tuple[float, float]:
    """Points by which `one` is ahead of `other`, image by image, and the paired standard error."""
    differences = [a - b for a, b in zip(one, other, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    return 100 * statistics.fmean(differences), 100 * error


@dataclass(frozen=True)
class Row:
    """A cell of an experiment, with its last run where there is one.

    Attributes:
        cell: what was asked.
        state: how it stands now.
        run: the run that was asked for; None where it is not done.
        damage: why its run is left out, in one line; None where it is not.
    """

    cell: Cell
    state: str
    run: Run | None
    damage: str | None = None

    @property
    def method(self) -> str | None:
        """As in ``method=NAME``."""
        return self.cell.overrides.get("method")

    @property
    def model(self) -> str | None:
        """As in ``model=NAME``; where none was asked for, the run's own."""
        asked = self.cell.overrides.get("model")
        return self.run.metrics["model"] if asked is None and self.run else asked

    @property
    def seed(self) -> str | None:
        """As in ``seed=NUMBER``."""
        return self.cell.overrides.get("seed")

    @property
    def variation(self) -> str:
        """Overrides that place it in no row of the paper, for example ``lampq.gamma=2``."""
        return self.variation_from(())

    def variation_from(self, common: tuple[str, ...]) -> str:
        """The same in a table whose rows have some overrides in common: those are no variation, and one without is."""
        asked = self.cell.overrides
        rest = [f"{key}={value}" for key, value in asked.items() if key not in (*NOT_A_VARIATION, *common)]
        return ", ".join(rest + [f"without {key}" for key in common if key not in asked])


def measured(results: Path, experiment: str) -> list[Row]:
    """All cells of an experiment in a results folder; those whose run's folder has gone are not done any more."""
    return [_row(results, cell) for cell in read_cells(results, experiment)]


def _row(results: Path, cell: Cell) -> Row:
    state = cell.state_now(results)
    if state != DONE:
        return Row(cell, state, None)
    folder = results / "runs" / cell.fingerprints[-1] if cell.fingerprints else None
    if folder is None or not ended(folder):
        return Row(cell, "missing", None)
    try:
        return Row(cell, state, _read_again(folder))
    except DamagedRun as error:
        return Row(cell, DAMAGED, None, str(error))


def _read_again(folder: Path) -> Run:
    """The run in a folder, as it was read before where no file has been written to since.

    Raises:
        DamagedRun: as `read_run`.
    """
    try:
        signed = signature(folder)
    except OSError:
        return read_run(folder, Run)
    known = _read.get(folder)
    if known is None or known[0] != signed:
        known = _read[folder] = signed, read_run(folder, Run)
    return known[1]


_read: dict[Path, tuple[str, Run]] = {}
"""Runs of this process, by folder: every table and figure asks for its rows, most of them several times."""


def left_out(results: Path, experiments: Iterable[str]) -> list[str]:
    """What no table can use, a line each: cells that cannot be read, runs that are damaged."""
    lines = []
    for experiment in experiments:
        lines += unreadable_cells(results, experiment)
        lines += [row.damage for row in measured(results, experiment) if row.damage is not None]
    return list(dict.fromkeys(lines))


def widest(rows: Iterable[Row]) -> list[Row]:
    """Of rows for the same place in a table, those on the most validation images (then of the largest D), one a seed.

    Rows that are not done come last: a state is shown only where nothing is measured.
    """

    def size(row: Row) -> tuple[int, int]:
        if row.run is None:
            return (-1, -1)
        return row.run.metrics.get("images", 0), row.run.metrics.get("sample_images", 0)

    ordered = sorted(rows, key=size, reverse=True)
    best = [row for row in ordered if size(row) == size(ordered[0])]
    by_run = {row.run.fingerprint if row.run else id(row): row for row in best}
    return sorted(by_run.values(), key=lambda row: row.seed or "")


def latest(results: Path, experiment: str, method: str | None = None) -> Row | None:
    """The cell to draw: one of the paper's models before others, on the largest D."""
    rows = [r for r in measured(results, experiment) if r.run is not None and method in (None, r.method)]
    rows.sort(key=lambda row: row.model in paper.MODELS, reverse=True)
    return widest(r for r in rows if r.model == rows[0].model)[0] if rows else None
