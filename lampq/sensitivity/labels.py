"""Labels of D that a loss is taken at: the data set's, or drawn from the model's own predictions."""

from lampq.models.detection.pictures import Targets
from lampq.models.sampled_labels import sample_labels
from lampq.workbench import Workbench

LABELS = ("dataset", "sampled")


def labels_of(workbench: Workbench, kind: str) -> Targets:
    """What a loss is taken at, for each image of D: the ``dataset``'s, or ``sampled`` ones (see `sample_labels`)."""
    if kind == "sampled":
        workbench.task.only_classifiers("allocator.labels=sampled")
        return sample_labels(workbench.evaluator.full_precision_logits(), workbench.seed)
    return workbench.task.sample_labels


def identity_of_labels(workbench: Workbench, kind: str) -> dict:
    """What the labels depend on, for keys of the store."""
    seed = workbench.seed if kind == "sampled" else None
    return {"sample": workbench.task.identity["sample"], "labels": kind, "seed": seed}
