"""What Hydra could not compose, in one line: the override, and what would be right."""

import difflib
import errno
import re
from collections.abc import Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import (
    ConfigCompositionException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
    SearchPathException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lampq.configuration.config_folder import config_folder
from lampq.errors import LampQError, line
from lampq.limits import did_you_mean

TRACEBACK = "LAMPQ_TRACEBACK"
"""Environment variable: 1 shows the traceback of any failure."""

EXTRAS = {
    "hydra/launcher/slurm": ("hydra_plugins.lampq.SlurmLauncher", "submitit", "slurm"),
    "hydra/launcher/joblib": ("hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", "joblib", "sweep"),
    "hydra/sweeper/optuna": ("hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper", "optuna", "sweep"),
}
"""Options that need an extra: the class that is known where it is installed, the package, the extra's name."""

FULL = "the disk is full; make room and run the same command again to resume"


def explain_composition(error: Exception, arguments: Sequence[str]) -> str:
    """One line on what Hydra could not compose: the override, and what would be right."""
    if disk_is_full(error):
        return f"{getattr(error, 'filename', None) or 'paths.results'}: {FULL}"
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, LampQError):
        return line(error.__cause__)
    first = line(str(error).split("\n")[0])
    if isinstance(error, OverrideParseException):
        remedy = "write KEY=VALUE or GROUP=OPTION, lists as [2,3], and quote what has spaces, commas or brackets"
        return f"{error.override}: cannot be read; {remedy}"
    if isinstance(error, SearchPathException):
        return f"{first}; give the folder that holds your own groups"
    unknown = re.search(r"Unknown plugin class : '(.+)'", str(error))
    if extra := lacking_extra(unknown[1] if unknown else None, getattr(error, "missing_cfg_file", None)):
        return extra
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return _no_such_option(group or "config", option, sorted(error.options or ()))
    if match := re.match(r"Ambiguous value for argument '(.+)'$", first):
        if unknown := _unknown_experiment(arguments):  # a known one would have made it a grid
            return unknown
        return f"{match[1]}: several values are a grid; add --multirun, or write a list as [A,B]"
    if match := re.match(r"Could not (?:override|delete from config\.) '([^']+)'", first):
        key = match[1].partition("@")[0]
        return f"{_override_of(key, arguments)}: there is no such key or group{_near_key(key, arguments)}"
    if match := re.match(r"Could not append to config\. An item is already at '(.+)'", first):
        return f"+{match[1]}: is there already; leave out the +"
    if match := re.match(r"Multiple values for (\S+)\. ", first):
        return f"+{match[1]}: the group has its option already; leave out the +"
    if match := re.match(r"Could not delete '(.+?)'", first):
        return f"~{match[1]}: is part of every run; leave it out"
    if str(error).startswith(("Config group override must be", "Could not override ''")):
        return _number_for_group(arguments)
    if first.startswith(("Cannot find primary config", "Primary config directory")):
        return f"{first.rstrip('.')}; leave out --config-path and --config-name, own groups are added by --config-dir"
    if first.startswith(("Only one of --run", "The --resolve flag")):
        return f"{first}; --hydra-help lists the flags"
    if first == "Hydra sweeper is not configured":
        return "hydra.sweeper=null: a grid needs one; leave it out"
    if first.startswith("No trials are completed"):
        return "hydra/sweeper: no trial came to its end; the lines above say why each one failed"
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        key = re.search(r"full_key: (\S+)", str(error))
        return f"{key[1] if key else 'hydra.launcher or hydra.sweeper'}: {line(error.__cause__)}; --cfg hydra shows it"
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key}: {first}; give it a value of its own"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; choose another folder by paths.results"
    if isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
        return f"{first.rstrip('.')}: {line(str(error.__cause__).splitlines()[0])}"
    return f"{first}; {TRACEBACK}=1 shows where"


def lacking_extra(target: str | None, option: str | None = None) -> str | None:
    """What to install for a launcher or sweeper that is not there, named by its class or as an option; else None."""
    for name, (known, package, extra) in EXTRAS.items():
        if name == option or (known == target and target not in Plugins.instance().class_name_to_class):
            return f"{'='.join(name.rsplit('/', 1))}: needs {package}: pip install 'lampq[{extra}]'"
    return None


def _number_for_group(arguments: Sequence[str]) -> str:
    """Hydra refuses a number as a group's option without saying which."""
    for argument in arguments:
        group, _, option = argument.partition("=")
        options = _options(group)
        if options and option not in options:
            return _no_such_option(group, option, options)
    return "an override without a key or a group; write KEY=VALUE or GROUP=OPTION"


def _unknown_experiment(arguments: Sequence[str]) -> str | None:
    """An experiment that is not there, before Hydra has looked for it; None where folders of the user's own may have
    it."""
    own = any(argument.startswith(("--config-dir", "-cd", "hydra.searchpath")) for argument in arguments)
    asked = next((a.partition("=")[2] for a in arguments if a.startswith("experiment=")), "null")
    options = _options("experiment")
    return None if own or asked in ("null", *options) or "," in asked else _no_such_option("experiment", asked, options)


def _options(group: str) -> list[str]:
    """Options of a group of ours."""
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml")) if group else []


def _no_such_option(group: str, option: str, options: list[str]) -> str:
    near = did_you_mean(option, options) or did_you_mean(f"b{option}", options)
    return f"{group}={option}: no such option{near}{';' if not near else ''} one of {', '.join(options)}"


def _override_of(key: str, arguments: Sequence[str]) -> str:
    """The argument as it was typed, of a key that Hydra names."""
    return next((a for a in arguments if re.split("[=@]", a.lstrip("+~"))[0] == key), key)


def _near_key(key: str, arguments: Sequence[str]) -> str:
    """A known key or group like the given one, or the keys beside it."""
    values = OmegaConf.to_container(_composed(arguments), resolve=False)
    groups = [folder.name for folder in config_folder().iterdir() if any(folder.glob("*.yaml"))]
    known = [*_flat("", values), *groups]
    known = [k for k in known if not k.endswith("_target_")]
    parent = key.rpartition(".")[0]
    siblings = [k for k in known if parent and k.rpartition(".")[0] == parent]
    last = key.rpartition(".")[2]
    if siblings:
        near = [f"{parent}.{k}" for k in difflib.get_close_matches(last, [k.rpartition(".")[2] for k in siblings], n=1)]
    else:
        near = difflib.get_close_matches(key, known, n=1)
    near = near or [k for k in known if k.rpartition(".")[2] == last]
    if near:
        return f"; did you mean {near[0]}?"
    if siblings:
        return f"; there {'are' if len(siblings) > 1 else 'is'} {', '.join(siblings)}"
    return "; --hydra-help lists what there is" if key.startswith("hydra") else "; --help lists what there is"


def _composed(arguments: Sequence[str]) -> DictConfig:
    """The configuration with the groups that were chosen, whatever else was asked for."""
    chosen = []
    for argument in arguments:
        group, _, option = argument.partition("=")
        if (config_folder() / group / f"{option}.yaml").is_file():
            chosen.append(argument)
    running, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
            return hydra.compose("config", overrides=chosen)
    finally:
        GlobalHydra.instance().hydra = running


def _flat(prefix: str, values: dict[str, Any]) -> list[str]:
    keys = []
    for key, value in values.items():
        keys.append(prefix + key)
        if isinstance(value, dict):
            keys += _flat(f"{prefix}{key}.", value)
    return keys


def disk_is_full(error: BaseException) -> bool:
    """Whether nothing more can be written."""
    return "No space left on device" in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
