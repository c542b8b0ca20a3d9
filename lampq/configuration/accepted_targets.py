"""Which classes a configuration may name: this list, and nothing else, is constructed or called because of a YAML file.

`_target_` names what is called, wherever it stands, and Python's logging calls what stands at `class` and `()`. A
configuration may come from somebody else, so it is checked whole, the part under ``hydra.`` too, whenever Hydra has
composed one and before Hydra makes anything from it.
"""

import inspect
import os
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.base import Container
from omegaconf.errors import OmegaConfBaseException

from lampq.errors import LampQError
from lampq.limits import shown

PARTS = {
    "model": ("lampq.models", "build"),
    "dataset": ("lampq.datasets", "validation"),
    "transform": ("lampq.transform", "apply"),
    "base_quantizer": ("lampq.base_quantizers", "minimum_bits"),
    "allocator": ("lampq.allocation", "allocate"),
    "sensitivity": ("lampq.sensitivity", "measure"),
}
"""Parts of a run: the folder that their classes come from, and what every class of the kind has."""

_JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher"
_SUBMITIT = "hydra_plugins.hydra_submitit_launcher.submitit_launcher"
_OPTUNA = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper"
_SAMPLERS = ("TPESampler", "RandomSampler", "GridSampler", "CmaEsSampler", "NSGAIISampler", "MOTPESampler")
_CORE = "hydra._internal.core_plugins"

HYDRA = {
    "hydra.launcher._target_": (
        f"{_CORE}.basic_launcher.BasicLauncher",
        "hydra_plugins.lampq.SlurmLauncher",
        f"{_JOBLIB}.JoblibLauncher",
        f"{_SUBMITIT}.SlurmLauncher",
        f"{_SUBMITIT}.LocalLauncher",
    ),
    "hydra.sweeper._target_": (
        "hydra_plugins.lampq.CellSweeper",
        "hydra_plugins.lampq.OptunaSweeper",
        f"{_OPTUNA}.OptunaSweeper",
    ),
    "hydra.sweeper.sampler._target_": tuple(f"optuna.samplers.{name}" for name in _SAMPLERS),
}
"""Hydra's own plugins and Optuna's samplers, by the only place where each may be named."""

LOGGING = (
    "logging.StreamHandler",
    "logging.NullHandler",
    "logging.Formatter",
    "ext://sys.stdout",
    "ext://sys.stderr",
)
"""What Hydra's logging may name: the screen. A run keeps its own log in its folder."""

_OPTIONS = {
    "hydra.launcher": "choose by hydra/launcher: basic, joblib or slurm",
    "hydra.sweeper": "choose by hydra/sweeper: cells, optuna or optuna_lampq",
    "hydra.sweeper.sampler": "choose by hydra/sweeper/sampler: tpe, random, grid, cmaes, nsgaii or motpe",
}

CALLED = ("_target_", "class", "()")
"""Keys whose value is called, the last two by logging."""

_LOGS = re.compile(r"hydra\.(job|hydra)_logging(\.|$)")

ENVIRONMENT = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that a configuration may set: none that names a program or a library."""


def check_targets(cfg: DictConfig) -> None:
    """See that a composed configuration names nothing but what is accepted.

    Raises:
        LampQError: it does: the key, the value, and where the accepted ones stand.
    """
    for key, name, value in _nodes("", cfg):
        logs = _LOGS.match(key) is not None
        called = name == "_target_" or (logs and (name in CALLED or re.match(r"[a-z]+://", str(value)) is not None))
        if called and not (isinstance(value, str) and _accepted(key, value)):
            raise LampQError(f"{key}={shown(value)}: {_remedy(key)}")
        if key == "hydra.sweeper.custom_search_space" and value is not None:
            raise LampQError(f"{key}={shown(value)}: names a function to call; give the values by hydra.sweeper.params")
    _check_environment(cfg)


def _accepted(key: str, target: str) -> bool:
    part, _, last = key.rpartition(".")
    if part in PARTS and last == "_target_":
        return re.fullmatch(rf"{re.escape(PARTS[part][0])}(\.[A-Za-z]\w*)+", target) is not None
    if key in HYDRA:
        return target in HYDRA[key]
    return last != "_target_" and target in LOGGING


def _remedy(key: str) -> str:
    part = key.rpartition(".")[0]
    if part in PARTS:
        return f"only classes under {PARTS[part][0]}. are accepted, as the files of conf/{part} name them"
    if key in HYDRA:
        return f"is not among those accepted; {_OPTIONS[part]}"
    if key.startswith(("hydra.job_logging", "hydra.hydra_logging")):
        return f"only {', '.join(LOGGING)} are accepted here; a run keeps its log in its own folder"
    return "only what lampq/configuration/accepted_targets.py lists is constructed, and nothing here; leave it out"


def _nodes(prefix: str, node: Container) -> Iterator[tuple[str, Any, Any]]:
    """All values below a node, interpolations resolved: full key, own key, value.

    A name to be called comes as it is written. What cannot be resolved yet (the number of a job that does not run) is
    left out; in logging, which is read when the job runs, nothing that may become a mapping is.
    """
    for name in node if isinstance(node, DictConfig) else range(len(node)):
        key, raw = f"{prefix}{name}", node._get_node(name)
        if raw is None or raw._is_missing():
            continue
        late = raw._is_interpolation() and _LOGS.match(key) is not None
        if late and name not in ("level", "format", "datefmt") and re.fullmatch(r"\$\{.*\}", raw._value()):
            raise LampQError(
                f"{key}={shown(raw._value())}: write out what it stands for; logging takes no ${{...}} here"
            )
        try:
            value = raw._value() if raw._is_interpolation() and name in CALLED else node[name]
        except OmegaConfBaseException:
            continue
        if isinstance(value, DictConfig | ListConfig) and not value._is_none() and not value._is_missing():
            yield from _nodes(f"{key}.", value)
        else:
            yield key, name, value


def _check_environment(cfg: DictConfig) -> None:
    job = OmegaConf.select(cfg, "hydra.job")
    if job is None:
        return
    for name, value in (job.get("env_set") or {}).items():
        copied = name in (job.get("env_copy") or ()) and os.environ.get(name) == value
        if name not in ENVIRONMENT and not copied:
            raise LampQError(
                f"hydra.job.env_set.{name}={shown(value)}: only {', '.join(ENVIRONMENT)} are accepted here; set others "
                "in front of the command"
            )


def check_part(key: str, target: Any) -> None:
    """See that the `_target_` of a part may be imported.

    Raises:
        LampQError: it lies elsewhere than the parts of its kind.
    """
    if not isinstance(target, str) or not _accepted(key, target):
        raise LampQError(f"{key}={shown(target)}: {_remedy(key)}")


def is_part(group: str, found: Any) -> bool:
    """Whether what a `_target_` has led to is a class of the kind, defined where its kind is, and not abstract."""
    folder, wanted = PARTS[group]
    whole = inspect.isclass(found) and not inspect.isabstract(found)
    return whole and found.__module__.startswith(f"{folder}.") and hasattr(found, wanted)
