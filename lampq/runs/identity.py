"""What a run is: its identity, which its fingerprint covers, and the words that name it in a table."""

import logging

import torch

from lampq.allocation.base import Allocator
from lampq.configuration.settings import Settings
from lampq.plan.bit_plan import BitPlan
from lampq.runs.preparation import Prepared
from lampq.runs.record import RunRecord
from lampq.sensitivity.measurement import Measurement

log = logging.getLogger(__name__)


def identity(settings: Settings, prepared: Prepared, work: Allocator | Measurement) -> dict:
    """What a run's numbers depend on: settings of the parts that are used, contents of weights and of images."""
    single = settings.sensitivity is not None
    by_itself = single and not work.at_a_plan
    # What is not used is not even looked at.
    sets = {"calibration": True, "sample": work.searches, "validation": settings.validate and not single}
    images = {name: prepared.task.identity[name] for name, used in sets.items() if used}
    budget = (settings.budget if work.searches and not by_itself else settings.budget.unbound()).to_json()
    if not work.searches:
        budget.pop("candidates")
    quantizer = settings.base_quantizer
    if quantizer.sequential and quantizer.training_images is not None:
        images["training"] = prepared.task.training_identity(quantizer.training_images)
    for line in prepared.task.repeated():
        log.info(line)
    if by_itself:
        budget = {key: budget[key] for key in ("weight_bits", "activation_bits", "activation_rule")}
    if not work.uses_budget:
        budget.clear()
    elif budget["weight_bits"] == budget["activation_bits"] and budget["activation_rule"] != "independent":
        budget.pop("activation_rule")
        if by_itself:
            budget.clear()  # its inputs have the component's bits, whatever the target
    search = {"search": quantizer.search} if quantizer.sequential and work.searches else {}
    if search and quantizer.rank_last:
        search["ranked"] = [quantizer.rank_last, quantizer.rank_steps]
    if search and quantizer.search != "surrogate":
        search["estimates_from"] = "scored"  # not from independent states, as once
        if quantizer.search_steps is not None:
            search["search_steps"] = quantizer.search_steps
    if search and by_itself and quantizer.search == "block_bank":
        search["blocks_behind"] = settings.budget.unbound().to_json()  # blocks are realised behind equal bits
    limited = settings.evaluation_images is not None and work.searches and not single
    return {
        "model": prepared.adapter.name,
        "weights": prepared.adapter.weights_hash(),
        **({} if prepared.adapter.transform is None else {"transform": prepared.adapter.transform}),
        "images": images,
        "base_quantizer": [quantizer.name, quantizer.revision, quantizer.settings()],
        "sensitivity" if single else "allocator": [work.name, work.revision, work.settings()],
        "budget": budget,
        "seed": settings.seed,
        **search,
        **({"evaluation_images": settings.evaluation_images} if limited else {}),
        # Where the time of a cold run is what was asked for, a run that read the bank does not stand for it.
        **({"fresh_bank": [str(prepared.device), torch.get_num_threads()]} if settings.bank == "fresh" else {}),
    }


def labels(
    settings: Settings,
    prepared: Prepared,
    work: Allocator | Measurement,
    record: RunRecord,
    plan: BitPlan | None,
) -> dict:
    """The words of a row: which model, data, method and bits (the plan's own target, where it has one)."""
    if plan is None:
        target = dict(zip(("weight_bits", "activation_bits"), work.target(settings.budget), strict=True))
    else:
        target = {**settings.budget.to_json(), **plan.budget}
    return {
        "fingerprint": record.fingerprint,
        "model": prepared.adapter.name,
        "dataset": settings.dataset.name,
        "base_quantizer": settings.base_quantizer.name,
        "allocator": work.name,
        **({} if prepared.adapter.transform is None else {"transform": prepared.adapter.transform["name"]}),
        "weight_bits": target["weight_bits"],
        "activation_bits": target["activation_bits"],
        "seed": settings.seed,
        **({"budget_unit": settings.budget.unit} if work.searches and plan is not None else {}),
    }
