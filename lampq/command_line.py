"""The command line: compose the configuration, check it, hand over to the pipeline; every failure is one line.

`python run.py` in a checkout and `lampq` where the package is installed are the same. Composition (also of --help,
--cfg and shell completion) imports no PyTorch.
"""

import difflib
import errno
import os
import re
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException, SearchPathException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import lampq
from lampq.errors import LampQError
from lampq.limits import did_you_mean

TRACEBACK = "LAMPQ_TRACEBACK"
"""Environment variable: 1 shows the traceback of any failure."""
INTERRUPTED = "interrupted; run the same command again to resume"

_failures: list[LampQError] = []
"""Failed jobs of this process."""


def config_folder() -> Path:
    """Where the YAML files are: inside an installed package, beside it in a checkout."""
    package = Path(lampq.__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def main() -> None:
    """Run the command line of this process and exit: 0, or 1 after one line ``error: ...`` (130 when interrupted)."""
    sys.exit(command_line())


def command_line() -> int:
    """Compose and run what `sys.argv` asks for; return the exit status."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands exceptions over instead of printing them
    # Threads that wait for each other sleep instead of spinning: on a machine with other work, spinning made a forward
    # pass eight times slower. PyTorch reads this when it is imported, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        sys.argv[1:] = _in_order(sys.argv[1:])
        try:
            _job()
        except LampQError:
            raise
        except Exception as error:
            raise LampQError(explain_composition(error, sys.argv[1:])) from error
        if _failures:
            raise _failures[0]
        sys.stdout.flush()
        return 0
    except LampQError as error:
        if os.environ.get(TRACEBACK) == "1":
            traceback.print_exception(error)
        count = f"{len(_failures)} jobs failed, the first: " if len(_failures) > 1 else ""
        _say(f"error: {count}{error}")
        return 1
    except KeyboardInterrupt:
        _say(INTERRUPTED)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `lampq --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        _failures.clear()


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
def _job(cfg: DictConfig) -> Any:
    """One job: a single run, or one of a grid, possibly in another process or on another machine.

    Returns:
        What a sweeper may minimize: the mean loss on the sample set D (never a validation figure), or None.
    """
    try:
        from lampq.settings import check

        _one_option_each()
        settings = check(cfg)
        from lampq.pipeline import run
        from lampq.report.console import show

        records = run(settings)
        show(records)
        return records[-1].metrics.get("sample_loss")
    except (Exception, SystemExit) as error:  # SystemExit would take a whole grid down
        failure = LampQError(explain_failure(error, cfg))
        failure.__cause__ = error
    _failures.append(failure)
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return None  # `command_line` reports it; Hydra would print a line of its own
    names = ", ".join(HydraConfig.get().overrides.task)
    _say(f"failed: {names}: {failure}")
    raise failure


def explain_failure(error: BaseException, cfg: DictConfig) -> str:
    """One line on what went wrong in a job; the traceback of an unexpected error goes to a file that it names."""
    if isinstance(error, LampQError):
        return _line(error)
    if "No space left on device" in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return f"{_full_folder(error, cfg)}: the disk is full; make room and run the same command again to resume"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.filename}: {error.strerror}; choose other folders by paths.results and paths.cache"
    if type(error).__name__ == "OutOfMemoryError":
        return "out of GPU memory: lower dataset.batch_size or prefix_memory_gib, or use device=cpu"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "out of memory: lower dataset.batch_size or prefix_memory_gib"
    if isinstance(error, ModuleNotFoundError) and not (error.name or "lampq").startswith("lampq"):
        return f"the package {error.name} is not installed: pip install {error.name}"
    return f"{type(error).__name__}: {_line(error)} (unexpected; {_write_traceback(error)})"


def explain_composition(error: Exception, arguments: Sequence[str]) -> str:
    """One line on what Hydra could not compose: the override, and what would be right."""
    first = _line(str(error).split("\n")[0])
    if isinstance(error, OverrideParseException):
        remedy = "write KEY=VALUE or GROUP=OPTION, lists as [2,3], and quote what has spaces, commas or brackets"
        return f"{error.override}: cannot be read; {remedy}"
    if isinstance(error, SearchPathException):
        return f"{first}; give the folder that holds your own groups"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return _no_such_option(group or "config", option, sorted(error.options or ()))
    if match := re.match(r"Ambiguous value for argument '(.+)'$", first):
        return f"{match[1]}: several values are a grid; add --multirun, or write a list as [A,B]"
    if match := re.match(r"Could not (?:override|delete from config\.) '([^']+)'", first):
        key = match[1].partition("@")[0]
        return f"{_override_of(key, arguments)}: there is no such key or group{_near_key(key, arguments)}"
    if match := re.match(r"Could not append to config\. An item is already at '(.+)'", first):
        return f"+{match[1]}: is there already; leave out the +"
    if match := re.match(r"Multiple values for (\S+)\. ", first):
        return f"+{match[1]}: the group has its option already; leave out the +"
    if str(error).startswith("Config group override must be"):
        return _number_for_group(arguments)
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key}: {first}; give it a value of its own"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; choose another folder by paths.results"
    if isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
        return f"{first.rstrip('.')}: {_line(str(error.__cause__).splitlines()[0])}"
    return f"{first}; {TRACEBACK}=1 shows where"


def _say(line: str) -> None:
    """A line of its own on standard error, with no progress bar in front of it."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()
    print(line, file=sys.stderr)


def _in_order(arguments: Sequence[str]) -> list[str]:
    """Overrides first, then flags: Hydra refuses flags between overrides."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            unknown = next((a for a in message.split()[2:] if a.startswith("-")), message)
            raise LampQError(f"{unknown}: there is no such flag; keys are written KEY=VALUE, without dashes")
        raise LampQError(f"{message}; --hydra-help lists the flags")

    parser.error = refuse
    overrides = parser.parse_intermixed_args(arguments).overrides
    flags = list(arguments)
    for override in overrides:
        flags.remove(override)
    return [*overrides, *flags]


def _one_option_each() -> None:
    """Hydra takes model=[a,b] for a merger of two options."""
    choices = HydraConfig.get().runtime.choices
    for folder in config_folder().iterdir():
        if any(folder.glob("*.yaml")) and folder.name not in choices:
            raise LampQError(f"{folder.name}: takes one option; for a grid write --multirun {folder.name}=A,B")


def _number_for_group(arguments: Sequence[str]) -> str:
    """Hydra refuses a number as a group's option without saying which."""
    for argument in arguments:
        group, _, option = argument.partition("=")
        options = sorted(path.stem for path in (config_folder() / group).glob("*.yaml")) if group else []
        if options and option not in options:
            return _no_such_option(group, option, options)
    return "an override without a key or a group; write KEY=VALUE or GROUP=OPTION"


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
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        return hydra.compose("config", overrides=chosen)


def _flat(prefix: str, values: dict[str, Any]) -> list[str]:
    keys = []
    for key, value in values.items():
        keys.append(prefix + key)
        if isinstance(value, dict):
            keys += _flat(f"{prefix}{key}.", value)
    return keys


def _full_folder(error: BaseException, cfg: DictConfig) -> str:
    """The path that could not be written, or else the fuller one of the two folders that a run writes to."""
    if getattr(error, "filename", None):
        return str(error.filename)
    free = {}
    for path in (cfg.paths.results, cfg.paths.cache):
        folder = Path(path).expanduser().absolute()
        while not folder.exists():
            folder = folder.parent
        free[str(path)] = shutil.disk_usage(folder).free
    return min(free, key=free.get)


def _write_traceback(error: BaseException) -> str:
    path = Path(HydraConfig.get().runtime.output_dir) / f"traceback-{os.getpid()}.txt"
    try:
        path.write_text("".join(traceback.format_exception(error)))
    except OSError:
        return f"{TRACEBACK}=1 shows where"
    return f"traceback in {os.path.relpath(path)}"


def _line(message: object) -> str:
    return " ".join(str(message).split())
