"""The checked settings of one run: every mistake is named before any work starts.

Values live in the YAML files under conf/; here are types, ranges and what must fit together. Parts (model, data set,
base quantizer, allocator) name their class by `_target_`; their own values are checked by their constructors.
"""

import importlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lampq.configuration.accepted_targets import check_part, is_part
from lampq.errors import LampQError
from lampq.limits import (
    boolean,
    choice,
    did_you_mean,
    folder,
    fraction,
    integer,
    number,
    optional,
    shown,
    text,
    word,
)
from lampq.parts import build
from lampq.plan.budget import UNITS, Budget, default_bit_set
from lampq.plan.groups import checked_pins, checked_ties
from lampq.plan.plan_format import MOST_SPENT
from lampq.plan.sites import ALLOCATE

PARTS = ("model", "dataset", "transform", "base_quantizer", "allocator")
"""Groups whose YAML names a class."""
KEYS = (
    *PARTS,
    "lampq",
    "bit_set",
    "effort",
    "sensitivity",
    "logger",
    "bits",
    "weight_bits",
    "activation_bits",
    "activation_rule",
    "operand_bits",
    "allocate",
    "fixed_site_bits",
    "budget",
    "budget_limit",
    "ties",
    "pins",
    "seed",
    "device",
    "threads",
    "bank",
    "force",
    "max_evaluations",
    "evaluation_images",
    "validate",
    "save_model",
    "baseline",
    "prefix_memory_gib",
    "observation_memory_gib",
    "experiment",
    "paths",
)
"""Everything a configuration holds."""
LOGGER_KEYS = {"csv": ("name",), "wandb": ("name", "project", "entity", "mode", "group", "job_type", "tags", "timeout")}
EFFORT_KEYS = (
    "candidates",
    "rounds",
    "steps",
    "synthetic_images",
    "synthesis_steps",
    "block_iterations",
    "block_images",
    "rounding_rate",
    "scale_rate",
    "mlp_rate",
    "straight_through_iterations",
    "weight_rate",
    "straight_through_scale_rate",
)
MINIMUM_BITS, MAXIMUM_BITS = 1, 16
MEMORY = ("prefix_memory_gib", "observation_memory_gib")
MOST_THREADS = 1024
"""More than any machine has cores for."""
MOST_MEMORY = 65_536
"""GiB: what the 46 address bits of x86-64 reach."""
REMEDIES = {
    "dataset.root": "the folder that holds train/ and val/ (of COCO: train2017/, val2017/ and annotations/)",
    "allocator.plan": "the plan.json of a run",
    "model.name": "timm's name of a ViT, for example deit3_small_patch16_224.fb_in1k",
}
"""What to give where the YAML has no value of its own (???)."""


@dataclass(frozen=True)
class Settings:
    """What `lampq.pipeline` works from.

    Attributes:
        model, dataset, transform, base_quantizer, allocator: the parts, constructed; they have done no work yet.
        budget: targets, bit set and rules.
        seed: of every random choice.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` is already decided.
        threads: of PyTorch; None leaves its choice.
        bank: ``reuse`` or ``fresh``.
        force: compute a finished run again.
        validate: whether the result is measured on the validation images.
        save_model: whether the quantized model is written to the run's folder; None where it is not said.
        baseline: ``uniform`` or ``none``.
        prefix_memory_gib: memory for kept activations, in GiB.
        observation_memory_gib: memory for what calibration observes, in GiB.
        results, cache: folders.
        logger: `name` and what that logger takes.
        sensitivity: what to measure instead of quantizing the model, constructed; or None.
        evaluation_images: the first so many images of D that a search scores plans on; None is all of them.
        resolved: the whole configuration without interpolations, paths as given, for the record.
    """

    model: Any
    dataset: Any
    transform: Any
    base_quantizer: Any
    allocator: Any
    budget: Budget
    seed: int
    device: str
    threads: int | None
    bank: str
    force: bool
    baseline: str
    prefix_memory_gib: float
    results: Path
    cache: Path
    logger: dict[str, Any]
    resolved: dict[str, Any]
    observation_memory_gib: float = 4.0
    validate: bool = True
    save_model: bool | None = None
    sensitivity: Any = None
    evaluation_images: int | None = None


def check(cfg: DictConfig, **given: Any) -> Settings:
    """Check a composed configuration and construct its parts.

    Args:
        given: parts (by their group) and `budget`, as objects that take the place of what the configuration says.

    Raises:
        LampQError: the first mistake found, in one line: key, value, and what would be right.
    """
    return check_values(resolved(cfg), **given)


def check_values(values: dict[str, Any], **given: Any) -> Settings:
    """Check a configuration without interpolations, and construct its parts.

    Raises:
        LampQError: see `check`.
    """
    _known_keys("", values, KEYS)
    for key in ("lampq", "bit_set", "effort", "logger", "experiment", "paths"):
        _mapping(key, values)
    _known_keys("lampq.", values["lampq"], ("mu", "beta", "gamma"))
    _known_keys("bit_set.", values["bit_set"], ("bits",))
    _known_keys("effort.", values["effort"], EFFORT_KEYS)
    _known_keys("experiment.", values["experiment"], ("name", "scale", "without", "stand_ins"))
    _known_keys("paths.", values["paths"], ("results", "cache"))
    fraction("lampq.mu", values["lampq"]["mu"])
    integer("lampq.beta", values["lampq"]["beta"], MINIMUM_BITS, MAXIMUM_BITS)
    number("lampq.gamma", values["lampq"]["gamma"], above=1)
    optional(word, "experiment.scale", values["experiment"]["scale"])
    check_grid(values["experiment"])
    for key, value in values["effort"].items():
        if key.endswith("_rate"):
            number(f"effort.{key}", value, above=0, at_most=1)
        else:
            integer(f"effort.{key}", value, minimum=0 if key == "steps" else 1)
    optional(integer, "max_evaluations", values["max_evaluations"], minimum=0)
    optional(word, "experiment.name", values["experiment"]["name"])
    _bits("bits", values["bits"])
    weight_bits = _bits("weight_bits", values["weight_bits"])
    activation_bits = _bits("activation_bits", values["activation_bits"])
    _candidates(values["bit_set"]["bits"])
    fixed_site_bits = values["fixed_site_bits"]
    if fixed_site_bits != "target" and (isinstance(fixed_site_bits, bool) or not isinstance(fixed_site_bits, int)):
        raise LampQError(f"fixed_site_bits={shown(fixed_site_bits)}: must be target, or an integer of bits")
    plain = {
        "seed": integer("seed", values["seed"], minimum=0, maximum=2**32 - 1),
        "threads": optional(integer, "threads", values["threads"], minimum=1, maximum=MOST_THREADS),
        "evaluation_images": optional(integer, "evaluation_images", values["evaluation_images"], minimum=1),
        "bank": choice("bank", values["bank"], ("reuse", "fresh")),
        "force": boolean("force", values["force"]),
        "validate": boolean("validate", values["validate"]),
        "save_model": optional(boolean, "save_model", values["save_model"]),
        "baseline": choice("baseline", values["baseline"], ("uniform", "none")),
        **{
            name: number(name, values[name], at_least=0, at_most=MOST_MEMORY)
            for name in ("prefix_memory_gib", "observation_memory_gib")
        },
        "results": folder("paths.results", values["paths"]["results"]),
        "cache": folder("paths.cache", values["paths"]["cache"], readable=True),
        "logger": _logger(values["logger"]),
        "device": device_name(values["device"]),
    }
    parts = {name: given.get(name) or construct(name, _mapping(name, values)) for name in PARTS}
    parts["model"].check()
    if values["sensitivity"] is not None:
        parts["sensitivity"] = construct("sensitivity", _mapping("sensitivity", values))
    base_quantizer = parts["base_quantizer"]
    _labels(parts["allocator"], parts["dataset"].task)
    rule = choice("activation_rule", values["activation_rule"], ("fixed", "follow", "independent"))
    candidates = _candidates(values["bit_set"]["bits"])
    allocate = choice("allocate", values["allocate"], ALLOCATE)
    by_themselves = rule == "independent" or allocate != "layers"
    own_input_set = by_themselves and candidates is None and weight_bits != activation_bits
    budget = Budget(
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        candidates=candidates or _default_candidates(weight_bits, base_quantizer),
        activation_rule=rule,
        fixed_site_bits=_fixed_site_bits(fixed_site_bits, weight_bits, activation_bits),
        operand_bits=choice("operand_bits", values["operand_bits"], ("target", "follow_qkv")),
        unit=choice("budget", values["budget"], tuple(UNITS)),
        limit=_limit(values["budget_limit"], values["budget"]),
        ties=checked_ties(values["ties"]),
        pins=checked_pins(values["pins"]),
        input_candidates=_default_candidates(activation_bits, base_quantizer) if own_input_set else (),
        image_bits=base_quantizer.image_bits,
        allocate=allocate,
    )
    budget = given.get("budget") or budget
    _fits_together(budget, base_quantizer, parts["allocator"], plain["baseline"])
    if budget.independent and values["sensitivity"] is not None:
        raise LampQError("activation_rule=independent: sensitivity has one number for a layer's bits; choose fixed")
    if budget.beyond_layers and getattr(parts.get("sensitivity"), "at_a_plan", False):
        raise LampQError(f"allocate={allocate}: sensitivity=changes looks at the 4N layers; choose allocate=layers")
    return Settings(**parts, **plain, budget=budget, resolved=values)


def check_grid(experiment: dict[str, Any]) -> None:
    """What an experiment leaves out, and what it takes in place of other values.

    Raises:
        LampQError: `without` is no list of mappings, or `stand_ins` no mapping of mappings.
    """
    without, stand_ins = experiment["without"], experiment["stand_ins"]
    if without is not None and not (isinstance(without, list) and all(isinstance(w, dict) for w in without)):
        raise LampQError(
            f"experiment.without={shown(without)}: must be a list of keys and values, for example [{{bits:3}}]"
        )
    good = isinstance(stand_ins, dict) and all(isinstance(of, dict) for of in stand_ins.values())
    if stand_ins is not None and not good:
        raise LampQError(
            f"experiment.stand_ins={shown(stand_ins)}: must be values by key, as {{model:{{vit_base:vit_small}}}}"
        )


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as a plain dictionary, interpolations resolved, nothing missing.

    Raises:
        LampQError: an interpolation leads nowhere, or a value that has to be given is not.
    """
    try:
        values = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        first, *_ = str(error).splitlines()
        raise LampQError(f"{error.full_key or 'configuration'}: {first}; give it a value of its own") from error
    if _has_missing(values) and (missing := sorted(OmegaConf.missing_keys(cfg))):
        raise LampQError(f"{missing[0]} is missing: add {missing[0]}={REMEDIES.get(missing[0], 'VALUE')}")
    return values


def _has_missing(value: Any) -> bool:
    """Whether a value may be missing somewhere: cheap, for the many jobs of a grid."""
    if isinstance(value, dict | list):
        return any(map(_has_missing, value.values() if isinstance(value, dict) else value))
    return value == "???"


def construct(key: str, values: dict[str, Any]) -> Any:
    """Construct a part from its `_target_`, a class that `accepted_targets` accepts, and its values.

    Raises:
        LampQError: no such class, an unknown or a lacking key, or a value that the constructor refuses.
    """
    values = dict(values)
    target = values.pop("_target_", None)
    if target is None:
        raise LampQError(f"{key}._target_ is missing: name the class, as the other files of conf/{key} do")
    part = _class(f"{key}._target_", target)
    return build(part, key, values, REMEDIES)


def _class(key: str, target: Any) -> Callable[..., Any]:
    group = key.partition(".")[0]
    check_part(key, target)
    module_name, _, class_name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        found = None
    if not is_part(group, found):
        raise LampQError(f"{key}={target}: there is no such {group.replace('_', ' ')}; name one as conf/{group} does")
    return found


def _mapping(key: str, values: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(values.get(key), dict):
        raise LampQError(f"{key}={shown(values.get(key))}: must be an option of the group conf/{key}")
    return values[key]


def _known_keys(prefix: str, values: dict[str, Any], keys: tuple[str, ...]) -> None:
    for key in values:
        if key not in keys:
            near = did_you_mean(key, keys) or f"; known: {', '.join(keys)}"
            raise LampQError(f"{prefix}{key}={shown(values[key])}: there is no such key{near}")
    for key in keys:
        if key not in values:
            raise LampQError(f"{prefix}{key} is missing: add {prefix}{key}=VALUE")


def _bits(key: str, value: Any) -> Fraction:
    return Fraction(str(number(key, value, at_least=MINIMUM_BITS, at_most=MAXIMUM_BITS)))


def _candidates(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    good = isinstance(value, list) and value and all(isinstance(b, int) and not isinstance(b, bool) for b in value)
    if not good or min(value) < MINIMUM_BITS or max(value) > MAXIMUM_BITS or len(set(value)) < len(value):
        limits = f"{MINIMUM_BITS} to {MAXIMUM_BITS}"
        raise LampQError(
            f"bit_set.bits={shown(value)}: must be a list of different integers from {limits}, for example [2,3,4]"
        )
    return tuple(sorted(value))


def _default_candidates(weight_bits: Fraction, base_quantizer: Any) -> tuple[int, ...]:
    """The default set, as far as the base quantizer is defined on it."""
    lowest, highest = base_quantizer.minimum_bits, base_quantizer.maximum_bits
    return tuple(b for b in default_bit_set(weight_bits) if lowest <= b <= highest) or (lowest,)


def _limit(value: Any, unit: str) -> int | None:
    if value is None:
        return None
    if unit == "average_bits":
        raise LampQError(
            f"budget_limit={shown(value)}: budget=average_bits is limited by weight_bits; leave it null, or choose "
            "budget=packed_bytes or bops"
        )
    return math.floor(number("budget_limit", value, at_least=1, at_most=float(MOST_SPENT)))


def _fixed_site_bits(value: Any, weight_bits: Fraction, activation_bits: Fraction) -> tuple[int, int]:
    if value == "target":
        return math.floor(weight_bits), math.floor(activation_bits)
    integer("fixed_site_bits", value, MINIMUM_BITS, MAXIMUM_BITS)
    return value, value


def _fits_together(budget: Budget, base_quantizer: Any, allocator: Any, baseline: str) -> None:
    """What no single value shows: targets, bit set, base quantizer and allocator must fit each other."""
    weight_bits, activation_bits, candidates = budget.weight_bits, budget.activation_bits, budget.candidates
    named = shown(float(weight_bits) if weight_bits.denominator > 1 else int(weight_bits))
    if weight_bits != activation_bits:
        if budget.activation_rule == "fixed" and activation_bits.denominator > 1:
            raise LampQError(f"activation_bits={float(activation_bits)}: must be an integer, or equal to weight_bits")
        if budget.activation_rule == "follow" and (activation_bits - weight_bits).denominator > 1:
            raise LampQError(
                f"activation_bits={float(activation_bits)}: with activation_rule=follow it must differ from "
                f"weight_bits={named} by an integer"
            )
    if budget.activation_rule == "follow" and allocator.searches:
        _inputs_follow(budget)
    if allocator.searches:
        allocator.check_chosen(budget)
    if budget.independent and allocator.searches:
        _fits_inputs(budget)
    if budget.beyond_layers and allocator.searches:
        _fits_operands(budget)
    if allocator.name == "uniform" and weight_bits.denominator > 1:
        raise LampQError(f"weight_bits={named}: allocator=uniform needs an integer; choose another allocator")
    limited = allocator.searches and budget.limit is None  # a limit of its own says by itself what can be spent
    if limited and candidates[0] > weight_bits:
        raise LampQError(
            f"bit_set.bits={shown(candidates)}: no plan of these averages weight_bits={named} or less; add "
            f"{math.floor(weight_bits)} or raise the target"
        )
    if limited and candidates[-1] < weight_bits:
        raise LampQError(
            f"bit_set.bits={shown(candidates)}: weight_bits={named} cannot be spent on these; add "
            f"{math.ceil(weight_bits)} or lower the target"
        )
    uses = [("fixed_site_bits", b) for b in budget.fixed_site_bits]
    if allocator.searches:
        uses += [("bit_set.bits", b) for b in candidates]
        uses += [("activation_bits", budget.input_bits(b)) for b in candidates]
        uses += [("bit_set.bits", b) for b in budget.input_candidates]
        for word, bits in budget.pins:
            uses += [(f"pins.{word}", bits), (f"pins.{word}", bits if budget.independent else budget.input_bits(bits))]
    uses += allocator.needed_bits()
    if weight_bits.denominator == 1 and (allocator.name == "uniform" or (allocator.searches and baseline == "uniform")):
        uses.append(("weight_bits", math.floor(weight_bits)))
        uses.append(("activation_bits", budget.input_bits(math.floor(weight_bits))))
    lowest, highest = base_quantizer.minimum_bits, base_quantizer.maximum_bits
    for key, bits in uses:
        if not lowest <= bits <= highest:
            raise LampQError(
                f"{key}: {bits} bits are asked for, but base_quantizer={base_quantizer.name} is defined from {lowest} "
                f"to {highest} bits; stay within or choose another base quantizer"
            )


def _inputs_follow(budget: Budget) -> None:
    """Inputs that follow their layer's weights must have bits that there are."""
    more = int(budget.activation_bits - budget.weight_bits)
    for bits in [*budget.candidates, *(bits for _, bits in budget.pins)]:
        if not MINIMUM_BITS <= bits + more <= MAXIMUM_BITS:
            raise LampQError(
                f"activation_rule=follow: a layer of {bits} bits would have inputs of {bits + more}, which must be "
                f"{MINIMUM_BITS} to {MAXIMUM_BITS}; leave {bits} out of bit_set.bits and pins, or choose fixed"
            )


def _labels(allocator: Any, task: str) -> None:
    """Labels of a Fisher trace where none are asked for: drawn from the model, which a detector has no way to do."""
    if allocator.labels is None:
        allocator.labels = "sampled" if task == "classification" else "dataset"
    elif task != "classification" and allocator.labels == "sampled":
        raise LampQError(
            "allocator.labels=sampled: a detector's answers are no labels to draw; choose dataset, or null"
        )


def _fits_inputs(budget: Budget) -> None:
    """What inputs with bits of their own need: bits that average to the target."""
    activation_bits, bits = float(budget.activation_bits), budget.input_candidates or budget.candidates
    if not bits[0] <= activation_bits <= bits[-1]:
        raise LampQError(
            f"activation_bits={activation_bits:g}: inputs of bit_set.bits={shown(bits)} cannot average it; add bits "
            "below or above it"
        )
    if budget.in_pairs and budget.operand_bits == "follow_qkv":
        raise LampQError(
            "operand_bits=follow_qkv: with activation_rule=independent and budget=bops a pair of qkv's bits would "
            "spend its operands' bit operations too; choose target, or another budget"
        )


def _fits_operands(budget: Budget) -> None:
    """Operands with bits of their own follow no layer."""
    if budget.operand_bits == "follow_qkv":
        raise LampQError(
            f"operand_bits=follow_qkv: with allocate={budget.allocate} operands have bits of their own; choose target, "
            "or allocate=layers"
        )


def _logger(values: dict[str, Any]) -> dict[str, Any]:
    name = choice("logger.name", values.get("name"), LOGGER_KEYS)
    _known_keys("logger.", values, LOGGER_KEYS[name])
    if name == "wandb":
        text("logger.project", values["project"])
        optional(text, "logger.entity", values["entity"])
        choice("logger.mode", values["mode"], ("auto", "online", "offline"))
        optional(text, "logger.group", values["group"])
        optional(text, "logger.job_type", values["job_type"])
        number("logger.timeout", values["timeout"], above=0)
        if not isinstance(values["tags"], list) or not all(isinstance(tag, str) for tag in values["tags"]):
            raise LampQError(f"logger.tags={shown(values['tags'])}: must be a list of words, for example [first,w3a3]")
    return dict(values)


def device_name(value: Any) -> str:
    """PyTorch's name of a device that is there; of ``auto`` the GPU, or the CPU where there is none.

    Raises:
        LampQError: no name of a device that is supported, or none that is there.
    """
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        near = "; did you mean cuda?" if value == "gpu" else did_you_mean(value, ("auto", "cpu", "cuda"))
        raise LampQError(f"device={shown(value)}: must be auto, cpu, cuda or cuda:N{near}")
    if value == "cpu":
        return value
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if value == "auto":
        return "cuda" if count else "cpu"
    if not count:
        raise LampQError(f"device={value}: PyTorch finds no CUDA device here; use device=cpu or device=auto")
    if value != "cuda" and int(value.partition(":")[2]) >= count:
        raise LampQError(f"device={value}: the last CUDA device here is cuda:{count - 1}; use that or one before it")
    return value
