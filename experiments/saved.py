"""Models of runs as files: `python -m experiments save`, `export` and `verify`."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lampq import __version__
from lampq.artefact.integer import to_integers
from lampq.artefact.loading import load_adapter
from lampq.artefact.onnx import PACKAGES, need
from lampq.artefact.saving import TENSORS, is_saved
from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.progress import progress
from lampq.runs.preparation import Prepared
from lampq.runs.reopening import reopen
from lampq.runs.saved_model import save_plan
from lampq.tasks.classification import ClassificationTask

from .plan_files import find_plan, run_of


def save(text: str, results: Path, out: Path | None, like: str | None) -> str:
    """Save the model of a run or of a plan; a line on where and how large.

    Args:
        text: a run, or a plan file that `solve` or somebody's hand has made.
        out: the folder; None is ``model/`` beside the plan.
        like: the run whose model, images and base quantizer a plan file is for; None where the plan lies in the run's
            folder, or in a folder of its name.

    Raises:
        LampQError: no such plan, or nobody knows what it is for.
    """
    plan = find_plan(text, results)
    folder = run_folder(plan, results, like)
    run = run_of(plan)
    settings, prepared = reopen(folder)
    about: dict[str, Any] = {"made": f"lampq {__version__}: {settings.base_quantizer.name}", "seed": settings.seed}
    if run is not None:
        about |= {"fingerprint": run.fingerprint, "metrics": run.metrics}
        about["made"] += f", {run.metrics['allocator']}"
    out = out or plan.parent / ("model" if run is not None else f"{plan.stem}-model")
    save_plan(settings, prepared, BitPlan.read(plan), out, about)
    return f"{out}: {(out / TENSORS).stat().st_size:,} bytes of {4 * prepared.adapter.parameters():,}"


def run_folder(plan: Path, results: Path, like: str | None) -> Path:
    """The folder of the run that says what a plan is for.

    Raises:
        LampQError: there is none.
    """
    if like is not None:
        return find_plan(like, results).parent
    for folder in (plan.parent, results / "runs" / plan.parent.name):
        if (folder / "config.yaml").is_file():
            return folder
    raise LampQError(f"{plan}: says nothing of its model and images; name a run of them by --like RUN")


def export(text: str, results: Path, to: str, out: Path, opset: int, force: bool) -> str:
    """Write a run's model for another runtime, and see that it computes the same there.

    Raises:
        LampQError: it does not (unless forced), or has no form there.
    """
    need("onnx", "onnxscript", "onnxruntime" if to == "onnx" else "openvino")
    from lampq.artefact.onnx.checking import check_export
    from lampq.artefact.onnx.export import export_onnx
    from lampq.artefact.onnx.openvino import export_openvino

    if to == "onnx" and out.suffix != ".onnx":
        raise LampQError(f"--out {out}: the name of an ONNX file ends in .onnx")

    folder, prepared = _model_of(text, results)
    quantized, description = load_adapter(folder)
    about = {"data_config": description["data_config"], "class_names": description["about"].get("class_names")}
    about |= {"plan": description["plan"]["sites"], "made": description["about"].get("made")}
    if to == "onnx":
        export_onnx(quantized, out, opset, about)
    else:
        export_openvino(quantized, out, about)
    images = prepared.task.calibration_images
    return check_export(quantized, out, images, force)


def verify(text: str, results: Path, count: int | None) -> str:
    """A table: the same images by full precision, the simulation, the loaded file, in integers, and by other runtimes.

    Args:
        count: of validation images; None is all.

    Raises:
        LampQError: a run without a model, or without validation images.
    """
    need(*PACKAGES)
    folder, prepared = _model_of(text, results)
    task = prepared.task
    if not isinstance(task, ClassificationTask):
        raise LampQError(f"{text}: verify is for classifiers; {prepared.adapter.name} is none")
    settings, _ = reopen(run_folder(find_plan(text, results), results, None))
    plan = BitPlan.read(find_plan(text, results))
    if count is not None and count < 1:
        raise LampQError(f"--images {count}: must be at least 1")
    with tempfile.TemporaryDirectory() as scratch:
        networks = _networks(folder, prepared, settings, plan, Path(scratch))
        answers: dict[str, list[Tensor]] = {name: [] for name in networks}
        seconds = dict.fromkeys(networks, 0.0)
        labels: list[Tensor] = []
        total = task.dataset.validation_count if count is None else min(count, task.dataset.validation_count)
        with torch.inference_mode(), progress(description="verifying", total=total, unit="images") as bar:
            for images, classes in task.validation(0, total):
                for name, (network, _) in networks.items():
                    started = time.perf_counter()
                    answers[name].append(network(images))
                    seconds[name] += time.perf_counter() - started
                labels.append(classes)
                bar.update(len(images))
        return _table(answers, torch.cat(labels), seconds, {name: size for name, (_, size) in networks.items()})


def _model_of(text: str, results: Path) -> tuple[Path, Prepared]:
    """The saved model of a run, saved first where it is not, and what the run works with."""
    plan = find_plan(text, results)
    folder = plan.parent / "model"
    if not is_saved(folder):
        save(text, results, None, None)
    return folder, reopen(run_folder(plan, results, None))[1]


Network = Callable[[Tensor], Tensor]


def _networks(folder: Path, prepared: Prepared, settings: Any, plan: BitPlan, scratch: Path) -> dict[str, tuple]:
    """By name: what computes logits, and bytes on disk."""
    from lampq.artefact.onnx.checking import onnxruntime_network, openvino_network
    from lampq.artefact.onnx.export import export_onnx
    from lampq.runs.preparation import store_of, workbench_of

    size = (folder / TENSORS).stat().st_size
    with store_of(settings) as store:
        workbench = workbench_of(settings, prepared, store)
        workbench.build(plan)
        simulated = workbench.quantized_model().apply(plan).adapter
    loaded, integer = load_adapter(folder)[0], load_adapter(folder)[0]
    to_integers(integer)
    full = scratch / "full.onnx", 4 * prepared.adapter.parameters()
    file = scratch / "quantized.onnx"
    export_onnx(loaded, file)
    export_onnx(prepared.adapter, full[0])
    written = file.stat().st_size
    return {
        "full precision, PyTorch": (prepared.adapter.run, full[1]),
        "simulation": (simulated.run, None),
        "loaded file": (loaded.run, size),
        "integers": (integer.run, size),
        "full precision, onnxruntime": (onnxruntime_network(full[0]), full[0].stat().st_size),
        "onnxruntime": (onnxruntime_network(file), written),
        "full precision, OpenVINO": (openvino_network(full[0]), full[0].stat().st_size),
        "OpenVINO": (openvino_network(file), written),
    }


def _table(
    answers: dict[str, list[Tensor]], labels: Tensor, seconds: dict[str, float], sizes: dict[str, int | None]
) -> str:
    logits = {name: torch.cat(parts) for name, parts in answers.items()}
    reference = logits["simulation"]
    lines = [
        f"{len(labels)} images; agreement and largest difference of logits are with the simulation",
        f"{'':28} {'top-1 %':>8} {'agreement %':>12} {'difference':>11} {'bytes':>12} {'ms/image':>9}",
    ]
    for name, found in logits.items():
        top1 = 100 * float((found.argmax(1) == labels).float().mean())
        agreement = 100 * float((found.argmax(1) == reference.argmax(1)).float().mean())
        difference = float((found - reference).abs().max())
        size = "-" if sizes[name] is None else f"{sizes[name]:,}"
        lines.append(
            f"{name:28} {top1:8.2f} {agreement:12.2f} {difference:11.2e} {size:>12} "
            f"{1000 * seconds[name] / len(labels):9.2f}"
        )
    return "\n".join(lines)
