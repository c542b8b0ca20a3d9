"""What identifies all sets of a data set."""

from lampq.datasets.base import SETS, ImageSets


def identities(dataset: ImageSets, seed: int = 0, training: int | None = None) -> dict[str, dict]:
    """By set; with so many training images where these are asked for."""
    known = {which: dataset.identity(which, seed) for which in SETS}
    return known if training is None else {**known, "training": dataset.identity("training", seed, training)}
