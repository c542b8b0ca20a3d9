"""What a run works with: the full-precision model and its images, the store, the bank and what scores plans on D."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lampq.calibration.observation import Observer
from lampq.configuration.settings import Settings
from lampq.datasets.base import ImageSets
from lampq.models.adapter import ModelAdapter
from lampq.storage.digests import Digests
from lampq.storage.fingerprint import fingerprint
from lampq.storage.store import Store
from lampq.tasks.classification import ClassificationTask
from lampq.tasks.detection import DetectionTask
from lampq.tasks.task import Task
from lampq.transform.base import told
from lampq.workbench import Workbench, observer_of, open_workbench

log = logging.getLogger(__name__)

TASKS = {task.name: task for task in (ClassificationTask, DetectionTask)}
"""By the model's `task`."""

_prepared: dict[str, "Prepared"] = {}
"""The last model and images of this process."""


@dataclass(frozen=True)
class Prepared:
    """What several runs of one configuration share: the full-precision model and its images."""

    adapter: ModelAdapter
    task: Task
    observer: Observer
    device: torch.device


def prepare(settings: Settings, device: torch.device) -> Prepared:
    """Build the model and name the images; nothing is run yet.

    The jobs of a grid that share model and images get the same ones, unless time is what is measured.

    Raises:
        LampQError: plans are to be scored on more images than D has, or there are more images than memory holds.
    """
    prepared = _shared(settings, device)
    method = settings.base_quantizer
    training = method.training_images if method.sequential else None
    for note in prepared.task.notes(training):
        log.info(note)
    searches = settings.sensitivity is not None or settings.allocator.searches
    prepared.task.check_memory(searches, training, settings.validate)
    prepared.task.check_scored(settings.evaluation_images)
    return prepared


def _shared(settings: Settings, device: torch.device) -> Prepared:
    named = [settings.resolved.get(part) for part in ("model", "dataset")]
    if settings.bank == "fresh" or None in named:
        return _prepare(settings, device)
    method = settings.base_quantizer
    alike = [settings.seed, str(device), settings.transform.identity, method.quantizes_tensors, method.precision]
    key = fingerprint([*named, _checkpoint(settings), *alike])
    if key not in _prepared or not _prepared[key].task.still_current():
        _prepared.clear()
        _prepared[key] = _prepare(settings, device)
    return _prepared[key]


def _checkpoint(settings: Settings) -> str | None:
    """What is in the file of weights now, where the model is given one."""
    given = settings.resolved["model"].get("checkpoint")
    if not isinstance(given, str) or not Path(given).expanduser().is_file():
        return None
    path = Path(given).expanduser()
    return digests_of(settings).of(path.parent, [path.name])[0]


def digests_of(settings: Settings) -> Digests:
    """Of files, kept in the user's cache folder."""
    return Digests(settings.cache / "digests")


def _prepare(settings: Settings, device: torch.device) -> Prepared:
    log.info("model %s", settings.model.name)
    return prepared_for(settings, settings.model.build(device), settings.dataset, device)


def prepared_for(settings: Settings, adapter: ModelAdapter, images: ImageSets, device: torch.device) -> Prepared:
    """What the base quantizer works with, of a model and images.

    Args:
        adapter: the full-precision model.
        device: where it is.

    Raises:
        LampQError: the model cannot be transformed so, the method does not quantize such a model, or the images do not
            fit it.
    """
    method = settings.base_quantizer
    adapter = settings.transform.apply(adapter)
    if adapter.transform is not None:
        log.info(told(adapter.transform))
    if method.quantizes_tensors:
        adapter = adapter.with_tensors()
    method.check_model(adapter)
    if stays := adapter.told_unquantized():
        log.info(stays)
    task = task_of(settings, adapter, images, device)
    memory = int(settings.observation_memory_gib * 2**30)
    return Prepared(adapter, task, observer_of(adapter, task, method, memory), device)


def task_of(settings: Settings, adapter: ModelAdapter, images: ImageSets, device: torch.device) -> Task:
    """What a model is judged by on images.

    Raises:
        LampQError: the images do not fit the model.
    """
    images.keep_digests(digests_of(settings))
    return TASKS[adapter.task](adapter, images, settings.seed, device)


def workbench_of(settings: Settings, prepared: Prepared, store: Store, images: int | None = None) -> Workbench:
    """The workbench of a run.

    Args:
        images: the first so many images of D that plans are scored on; None is all of them.
    """
    return open_workbench(
        prepared.adapter,
        prepared.task,
        settings.base_quantizer,
        store,
        settings.budget,
        observer=prepared.observer,
        prefix_memory=int(settings.prefix_memory_gib * 2**30),
        images=images,
    )


@contextlib.contextmanager
def store_of(settings: Settings) -> Iterator[Store]:
    """The shared store, or for ``bank=fresh`` an empty one that is thrown away."""
    if settings.bank == "reuse":
        yield Store(settings.cache)
        return
    with tempfile.TemporaryDirectory(prefix="lampq-fresh-") as folder:
        yield Store(Path(folder))
