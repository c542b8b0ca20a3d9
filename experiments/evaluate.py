"""A saved model's accuracy on any data set: `python -m experiments evaluate FOLDER`."""

from collections.abc import Sequence
from pathlib import Path

import torch

from lampq import __version__
from lampq.artefact.integer import to_integers
from lampq.artefact.loading import load_adapter
from lampq.configuration.typed_settings import typed_settings
from lampq.errors import LampQError
from lampq.runs.preparation import store_of, task_of
from lampq.runs.record import environment
from lampq.storage.fingerprint import fingerprint
from lampq.tasks.accuracies import ACCURACIES
from lampq.tasks.validation import measured

HAVE_AN_EFFECT = ("dataset", "scale", "seed", "device", "threads", "bank", "paths")
"""Groups and keys of the command line that say on what, and where, a finished model is evaluated."""


def evaluate(folder: Path, overrides: Sequence[str], execute: str = "simulated") -> str:
    """A line with the accuracy on the validation images, and its standard error.

    Args:
        folder: of a saved model.
        overrides: as on the command line: ``dataset=imagenet``, ``dataset.root=/data/imagenet`` ...
        execute: ``simulated`` or ``integer``.

    Raises:
        LampQError: no saved model, an override that has no effect on one, or a data set that does not fit it.
    """
    for override in overrides:
        if override.lstrip("+~").partition("=")[0].partition(".")[0] not in HAVE_AN_EFFECT:
            raise LampQError(f"{override}: has no effect on a saved model; give {', '.join(HAVE_AN_EFFECT)}")
    adapter, description = load_adapter(folder)
    settings = typed_settings(overrides)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    adapter.network.to(settings.device)
    task = task_of(settings, adapter, settings.dataset, torch.device(settings.device))
    task.check_memory(searches=False, training_images=None, validates=True)
    if execute == "integer":
        to_integers(adapter)
    identity = {
        "saved": [description["sha256"], fingerprint(description["modules"]), fingerprint(description["architecture"])],
        "execute": [execute, settings.device, __version__, environment(settings.device, 0)["commit"]],
    }
    with store_of(settings) as store:
        results = measured(lambda: adapter, task, store, identity)
    metrics = task.metrics(results, results)
    told = [
        f"{ACCURACIES[name]} {metrics[name]:.2f} ± {metrics[f'{name}_standard_error']:.2f} %"
        for name in task.accuracies
    ]
    return f"{folder}: {', '.join(told)} on {metrics['images']} images of {task.dataset.name}, {execute}"
