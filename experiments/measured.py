"""A finished run, with what tables and figures ask of it, and how far two of them are apart."""

import math
import statistics
from pathlib import Path

from lampq.runs.finished_run import FinishedRun


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
