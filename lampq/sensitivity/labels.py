"""Labels of D that a loss is taken at: the data set's, or drawn from the model's own predictions."""

from lampq.allocation.base import Search
from lampq.detection.images import Targets
from lampq.sensitivity.fisher import sample_labels

LABELS = ("dataset", "sampled")


def labels_of(search: Search, kind: str) -> Targets:
    """What a loss is taken at, for each image of D: the ``dataset``'s, or ``sampled`` ones (see `sample_labels`)."""
    if kind == "sampled":
        search.task.only_classifiers("allocator.labels=sampled")
        return sample_labels(search.evaluator.full_precision_logits(), search.seed)
    return search.task.sample_labels


def identity_of_labels(search: Search, kind: str) -> dict:
    """What the labels depend on, for keys of the store."""
    seed = search.seed if kind == "sampled" else None
    return {"sample": search.task.identity["sample"], "labels": kind, "seed": seed}
