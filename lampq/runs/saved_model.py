"""The quantized model of a finished run, written to its folder from what the store holds."""

import logging
from pathlib import Path

from lampq import __version__
from lampq.artefact.saving import save
from lampq.configuration.settings import Settings
from lampq.models.class_names import class_names
from lampq.plan.bit_plan import BitPlan
from lampq.runs.preparation import Prepared, store_of, workbench_of
from lampq.runs.record import RunRecord, environment

log = logging.getLogger(__name__)


def save_run(settings: Settings, prepared: Prepared, record: RunRecord) -> None:
    """Write the model that a finished run has measured to ``model/`` of its folder."""
    metrics = record.metrics
    about = {
        "made": f"lampq {__version__}: {metrics['base_quantizer']}, {metrics['allocator']}",
        "fingerprint": record.fingerprint,
        "seed": metrics["seed"],
        "metrics": metrics,
    }
    save_plan(settings, prepared, record.plan, record.model, about)


def save_plan(settings: Settings, prepared: Prepared, plan: BitPlan, folder: Path, about: dict) -> None:
    """Write the model of any plan; what is missing of it is calibrated, or realised in order.

    Args:
        about: what the file should tell of it (JSON-able), beside versions and names of classes.
    """
    with store_of(settings) as store:
        workbench = workbench_of(settings, prepared, store)
        workbench.build(plan)
        quantized = workbench.quantized_model().apply(plan).adapter
        about = {**about, "class_names": class_names(prepared.adapter)}
        about |= {key: environment(str(prepared.device), 0)[key] for key in ("commit", "packages")}
        save(folder, prepared.adapter, quantized, plan, about)
    log.info("model saved to %s", folder)
