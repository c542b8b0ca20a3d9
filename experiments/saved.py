"""Models of runs as files: `python -m experiments save` and `export`."""

from pathlib import Path
from typing import Any

from lampq import __version__
from lampq.artefact.files import TENSORS
from lampq.artefact.loading import load_adapter
from lampq.artefact.onnx import need
from lampq.artefact.saving import is_saved
from lampq.configuration.settings import Settings
from lampq.errors import LampQError
from lampq.models.detection.backbone import DetectorBackbone
from lampq.plan.bit_plan import BitPlan
from lampq.runs.preparation import Prepared
from lampq.runs.reopening import reopen
from lampq.runs.saved_model import save_plan

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

    folder, _, prepared = model_of(text, results)
    out.parent.mkdir(parents=True, exist_ok=True)
    quantized, description = load_adapter(folder)
    about = {"data_config": description["data_config"], "class_names": description["about"].get("class_names")}
    about |= {"plan": description["plan"]["sites"], "made": description["about"].get("made")}
    images = prepared.task.calibration_images
    if quantized.task == "detection":
        quantized = DetectorBackbone.of(quantized)
        images = quantized.fitted(images)
    if to == "onnx":
        export_onnx(quantized, out, opset, about)
    else:
        export_openvino(quantized, out, about)
    return check_export(quantized, out, images, force)


def model_of(text: str, results: Path) -> tuple[Path, Settings, Prepared]:
    """The saved model of a run, saved first where it is not; the run's settings, and what it works with on the CPU,
    where other runtimes compute.

    Raises:
        LampQError: no such plan, or the run is not what it was.
    """
    plan = find_plan(text, results)
    run_of(plan)  # a run whose files were changed is refused
    folder = plan.parent / "model"
    if not is_saved(folder):
        save(text, results, None, None)
    return folder, *reopen(run_folder(plan, results, None), "cpu")
