"""The command line: compose the configuration, check it, hand over to the pipeline; every failure is one line.

`python run.py` in a checkout and `lampq` where the package is installed are the same. Composition (also of --help,
--cfg and shell completion) imports no PyTorch.
"""

import os
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lampq.configuration import composition
from lampq.configuration.composition_failures import TRACEBACK, explain_composition, lacking_extra
from lampq.configuration.config_folder import config_folder
from lampq.errors import LampQError, line
from lampq.launch import isolation, sweeper
from lampq.launch.cells import DONE, FAILED, Cell
from lampq.launch.failures import explain_failure
from lampq.launch.job import Outcome, attempt, perform
from lampq.launch.streams import degrade
from lampq.runs.tracking.wandb_server import STARTED

COMMAND = "LAMPQ_COMMAND"
"""Environment variable: the command that was typed, for the processes that a launcher starts."""
INTERRUPTED = "interrupted; run the same command again to resume"

_failures: list[LampQError] = []
"""Failed jobs of this process."""


def main() -> None:
    """Run the command line of this process and exit: 0, or 1 after one line ``error: ...`` (130 when interrupted)."""
    sys.exit(command_line())


def command_line() -> int:
    """Compose and run what `sys.argv` asks for; return the exit status."""
    degrade(sys.stdout, sys.stderr)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands exceptions over instead of printing them
    # Threads that wait for each other sleep instead of spinning: on a machine with other work, spinning made a forward
    # pass eight times slower. PyTorch reads this when it is imported, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    composition.check_compositions()
    sweeper.register()
    try:
        sys.argv[1:] = _in_order(sys.argv[1:])
        os.environ[COMMAND] = shlex.join(sys.argv)
        os.environ[STARTED] = str(time.time())
        try:
            _job()
        except LampQError:
            raise
        except Exception as error:
            raise LampQError(explain_composition(error, sys.argv[1:])) from error
        if _failures:
            raise _failures[0]
        if sys.stdout is not None:  # closed before we began
            sys.stdout.flush()
        return 0
    except LampQError as error:
        if os.environ.get(TRACEBACK) == "1":
            traceback.print_exception(error)
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _say(INTERRUPTED)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `lampq --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        os.environ.pop(COMMAND, None)
        os.environ.pop(STARTED, None)
        _failures.clear()
        isolation.shared.stop()


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
def _job(cfg: DictConfig) -> Any:
    """One job: a single run, or one of a grid, possibly in another process or on another machine.

    Returns:
        What a sweeper may minimize: the mean loss on the sample set D (never a validation figure), or None.
    """
    os.chdir(HydraConfig.get().runtime.cwd)  # hydra.job.chdir or not: paths are taken from where the command was typed
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return _job_of_grid(cfg)
    try:
        _no_launcher()
        from lampq.configuration.settings import resolved

        return perform(resolved(cfg), alone=True).objective
    except (Exception, SystemExit) as error:
        failure = LampQError(explain_failure(error, *_folders(cfg)))
        failure.__cause__ = error
    _failures.append(failure)  # `command_line` reports it; Hydra would print a line of its own
    return None


def _job_of_grid(cfg: DictConfig) -> float | None:
    """A job in a process of its own, recorded as a cell of its grid.

    Raises:
        LampQError: it failed; the reason is in the cell's file as well.
    """
    if COMMAND in os.environ:
        sys.argv[:] = shlex.split(os.environ[COMMAND])  # records name it, and not the command of the launcher's process
    job = HydraConfig.get().job
    overrides = list(HydraConfig.get().overrides.task)
    cell, results = Cell.of(cfg.experiment.name, overrides), Path(cfg.paths.results).expanduser()
    with cell.running(results) as begun:
        started = time.monotonic()
        try:
            from lampq.configuration.settings import resolved

            logging_config = OmegaConf.to_container(HydraConfig.get().job_logging, resolve=True)
            outcome = isolation.shared.call(attempt, resolved(cfg), logging_config, *_folders(cfg))
        except LampQError as error:
            outcome = error
        if isinstance(outcome, Outcome):
            seconds = time.monotonic() - started
            begun.end(results, DONE, fingerprints=outcome.fingerprints, seconds=seconds)
            print(f"#{job.num} done: {outcome.line}{sweeper.time_left(job.num)}", flush=True)
            return outcome.objective
        begun.end(results, FAILED, reason=line(outcome), traceback="".join(getattr(outcome, "__notes__", [])) or None)
    _say(f"failed: {', '.join(overrides)}: {line(outcome)}")
    raise outcome


def _folders(cfg: DictConfig) -> tuple[list[str], str]:
    """Folders that a run writes to, and the one for tracebacks."""
    return [cfg.paths.results, cfg.paths.cache], HydraConfig.get().runtime.output_dir


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
    parsed = parser.parse_intermixed_args(arguments)
    if parsed.experimental_rerun is not None:
        raise LampQError(
            f"--experimental-rerun {parsed.experimental_rerun}: would execute what the file holds; give the overrides "
            "instead, as config.yaml of the run has them"
        )
    if parsed.package is not None and parsed.cfg is None:
        raise LampQError(f"--package {parsed.package}: goes with --cfg")
    overrides = parsed.overrides
    given: dict[str, str] = {}
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        if given.get(key, override) != override:
            _say(f"note: {override} holds, {given[key]} is given before it and has no effect")
        given[key] = override
    flags = list(arguments)
    for override in overrides:
        flags.remove(override)
    return [*overrides, *flags]


def _no_launcher() -> None:
    """Launchers and sweepers have no say in a single run; asked for, they would be passed over in silence."""
    chosen = HydraConfig.get()
    for kind, default in (("launcher", "basic"), ("sweeper", "cells")):
        option = chosen.runtime.choices[f"hydra/{kind}"]
        if option != default:
            remedy = f"hydra/{kind}={option}: is for a grid; add --multirun, also for a grid of one run"
            raise LampQError(lacking_extra(chosen[kind]._target_) or remedy)
