"""A run's model in each runtime beside its simulation: `python -m experiments verify`."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lampq.artefact.files import TENSORS
from lampq.artefact.integer import to_integers
from lampq.artefact.loading import load_adapter
from lampq.artefact.onnx import PACKAGES, need
from lampq.artefact.onnx.checking import size_on_disk
from lampq.artefact.onnx.codes import Codes, code_flips, simulated_codes
from lampq.artefact.onnx.runtimes import graph_codes, network
from lampq.configuration.settings import Settings
from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.runs.finished_run import VERIFIED
from lampq.runs.preparation import Prepared, store_of, workbench_of
from lampq.runs.record import environment
from lampq.storage.atomic_write import write_rows
from lampq.tasks.classification import ClassificationTask, accuracy_metrics

from .plan_files import find_plan
from .saved import model_of
from .verify_table import FULL_PRECISION

SIMULATION = "simulation"

CODE_IMAGES = 64
"""The first so many images have their codes compared."""


@dataclass
class Runtime:
    """One way to compute the model.

    Attributes:
        run: images ``[images, channels, height, width]`` to logits.
        bytes: on disk; None where there is no file.
        codes: of its activations; None where they are not looked at.
        logits: of all images so far, a batch each.
        seconds: what they took.
    """

    run: Callable[[Tensor], Tensor]
    bytes: int | None
    codes: Callable[[Tensor], Codes] | None = None
    logits: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0


def verify(text: str, results: Path, count: int | None) -> str:
    """A table, printed and written to the run's verify.csv: the same images by full precision, the simulation, the
    simulation in double precision, the loaded file, in integers, and by other runtimes.

    Args:
        count: of validation images; None is all.

    Raises:
        LampQError: a run without a model, or without validation images.
    """
    need(*PACKAGES)
    if count is not None and count < 1:
        raise LampQError(f"--images {count}: must be at least 1")
    path = find_plan(text, results)
    folder, settings, prepared = model_of(text, results)
    task = prepared.task
    if not isinstance(task, ClassificationTask):
        raise LampQError(f"{text}: verify is for classifiers; {prepared.adapter.name} is none")
    total = task.dataset.validation_count if count is None else min(count, task.dataset.validation_count)
    with tempfile.TemporaryDirectory() as scratch:
        runtimes = _runtimes(folder, prepared, settings, BitPlan.read(path), Path(scratch))
        labels = _answer(runtimes, task, total)
        flips = _flips(runtimes, task, min(total, CODE_IMAGES))
    rows, here = _rows(runtimes, task, labels, flips), _circumstances()
    write_rows(path.parent / VERIFIED, [row | here for row in rows])
    return "\n".join([*_lines(rows), str(path.parent / VERIFIED)])


def _runtimes(folder: Path, prepared: Prepared, settings: Settings, plan: BitPlan, scratch: Path) -> dict[str, Runtime]:
    """By name; files of other runtimes are written to `scratch`."""
    from lampq.artefact.onnx.export import export_onnx
    from lampq.artefact.onnx.openvino import convert

    size = (folder / TENSORS).stat().st_size
    with store_of(settings) as store:
        workbench = workbench_of(settings, prepared, store)
        workbench.build(plan)
        simulated = workbench.quantized_model().apply(plan).adapter
    exact = simulated.converted(torch.float64)
    loaded, integer = load_adapter(folder)[0], load_adapter(folder)[0]
    to_integers(integer)

    def exact_codes(images: Tensor) -> Codes:
        return simulated_codes(exact, images.double())

    runtimes = {
        FULL_PRECISION: Runtime(prepared.adapter.run, 4 * prepared.adapter.parameters()),
        SIMULATION: Runtime(simulated.run, None, lambda images: simulated_codes(simulated, images)),
        f"{SIMULATION}, float64": Runtime(lambda images: exact.run(images.double()), None, exact_codes),
        "loaded file": Runtime(loaded.run, size),
        "integers": Runtime(integer.run, size),
    }
    full, file = scratch / "full.onnx", scratch / "quantized.onnx"
    export_onnx(prepared.adapter, full)
    export_onnx(loaded, file)
    for name in ("onnxruntime", "OpenVINO"):
        if name == "OpenVINO":
            full, file = (convert(each, each.with_suffix(".xml")) for each in (full, file))
        runtimes[f"full precision, {name}"] = Runtime(network(full), size_on_disk(full))
        runtimes[name] = Runtime(network(file), size_on_disk(file), graph_codes(file, loaded))
    return runtimes


@torch.inference_mode()
def _answer(runtimes: dict[str, Runtime], task: ClassificationTask, total: int) -> Tensor:
    """Let every runtime compute the first `total` validation images, batch by batch in turn; their labels."""
    labels: list[Tensor] = []
    for images, classes in task.validation(0, total):
        for runtime in runtimes.values():
            if not labels:  # some prepare their kernels when they first see a size
                runtime.run(images)
            started = time.perf_counter()
            runtime.logits.append(runtime.run(images))
            runtime.seconds += time.perf_counter() - started
        labels.append(classes)
    return torch.cat(labels)


def _flips(runtimes: dict[str, Runtime], task: ClassificationTask, count: int) -> dict[str, float]:
    """Percent of the codes of the first `count` images that differ from the simulation's, by runtime."""
    images, of = torch.cat([batch for batch, _ in task.validation(0, count)]), runtimes[SIMULATION]
    return {
        name: code_flips(of.codes, runtime.codes, images).percent
        for name, runtime in runtimes.items()
        if runtime.codes is not None and runtime is not of
    }


def _rows(
    runtimes: dict[str, Runtime], task: ClassificationTask, labels: Tensor, flips: dict[str, float]
) -> list[dict[str, Any]]:
    reference, rows = torch.cat(runtimes[SIMULATION].logits), []
    for name, runtime in runtimes.items():
        found = torch.cat(runtime.logits)
        outcome = task.outcome(found, labels)
        accuracy = accuracy_metrics(outcome, outcome)
        rows.append(
            {
                "runtime": name,
                "images": len(labels),
                "top1": accuracy["top1"],
                "top1_error": accuracy["top1_standard_error"],
                "agreement": 100 * float((found.argmax(1) == reference.argmax(1)).float().mean()),
                "codes_differ": flips.get(name),
                "difference": float((found - reference).abs().max()),
                "bytes": runtime.bytes,
                "ms_per_image": 1000 * runtime.seconds / len(labels),
            }
        )
    return rows


def _circumstances() -> dict[str, Any]:
    """What the figures depend on besides the run."""
    here = environment("cpu", torch.get_num_threads(), ("torch", "timm", *PACKAGES))
    packages = " ".join(f"{name}={version}" for name, version in here["packages"].items())
    return {key: here[key] for key in ("command", "commit", "device", "processor", "threads", "started")} | {
        "packages": packages
    }


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"{rows[0]['images']} images; agreement, codes that differ and difference of logits are those "
        "with the simulation",
        f"{'':28} {'top-1 %':>15} {'agreement %':>12} {'codes %':>9} {'difference':>11} {'bytes':>12} {'ms/image':>9}",
    ]
    for row in rows:
        size = "-" if row["bytes"] is None else f"{row['bytes']:,}"
        top1 = f"{row['top1']:.2f} ± {row['top1_error']:.2f}"
        codes = "-" if row["codes_differ"] is None else f"{row['codes_differ']:.4f}"
        lines.append(
            f"{row['runtime']:28} {top1:>15} {row['agreement']:12.2f} {codes:>9} {row['difference']:11.2e} {size:>12} "
            f"{row['ms_per_image']:9.2f}"
        )
    return lines
