"""All jobs of a grid are checked before the first one runs, and every mistake is named.

Composing takes Hydra a tenth of a second, so what jobs share is composed once: the groups; values are put in by
Hydra's own code. The checks run in the process that the jobs will run in, which has PyTorch imported by then.
"""

import copy
import functools
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from lampq.configuration.accepted_targets import check_targets
from lampq.configuration.composition import CheckedLoader
from lampq.configuration.composition_failures import explain_composition
from lampq.errors import LampQError, line
from lampq.launch import isolation
from lampq.launch.imports import no_garbage_collected

LISTED = 20
"""Jobs that are named one by one; of more, one for each mistake."""

ELSEWHERE = ("dataset.", "allocator.plan", "plan file", "model.checkpoint", "paths.", "device=")
"""How a line begins whose cause may lie in this machine's files and devices, and not be there where the jobs run."""


class JobConfigurations:
    """The configurations of a grid's jobs.

    Args:
        loader: Hydra's.
        master: the configuration of the grid.
    """

    def __init__(self, loader: CheckedLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self._parsed = functools.cache(OverridesParser.create(config_loader=loader).parse_override)
        self._shared: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}

    def of(self, job: Sequence[str], number: int) -> tuple[dict[str, Any], list[str]]:
        """A job's resolved configuration, and its overrides with ``${hydra:...}`` as what it stands for in this job.

        Raises:
            LampQError: it cannot be composed or resolved; one line.
        """
        from lampq.configuration.settings import resolved

        try:
            parsed = [self._parsed(override) for override in job]
            groups = [o for o in parsed if o.is_delete() or self.loader.repository.group_exists(o.key_or_group)]
            base, hydra = self._composed(tuple(o.input_line for o in groups))
            cfg = copy.deepcopy(base)
            values = [o for o in parsed if o not in groups]
            self.loader._apply_overrides_to_config(values, cfg)
            if any("_target_" in override for override in job):
                check_targets(cfg)
            with _job_number(hydra, number):
                return resolved(cfg), [_written_out(o, cfg) for o in parsed]
        except LampQError:
            raise
        except Exception as error:
            raise LampQError(explain_composition(error, [*sys.argv[1:], *job])) from error

    def _composed(self, groups: tuple[str, ...]) -> tuple[DictConfig, DictConfig]:
        if groups not in self._shared:
            cfg = self.loader.load_sweep_config(self.master, list(groups))
            app = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
            OmegaConf.set_struct(app, True)
            self._shared[groups] = app, cfg
        return self._shared[groups]


def mistakes(configurations: Iterable[dict[str, Any]], elsewhere: bool) -> list[str | None]:
    """What is wrong with each of these configurations, in one line, or None; nothing is computed.

    Args:
        elsewhere: the jobs run on other machines, which have files and devices of their own.
    """
    from lampq.configuration.settings import check_values

    def mistake(values: dict[str, Any]) -> str | None:
        try:
            check_values({**values, "device": "cpu"} if elsewhere else values)
        except LampQError as error:
            return None if elsewhere and str(error).startswith(ELSEWHERE) else line(error)
        except Exception as error:
            return f"{type(error).__name__}: {line(error)}"
        return None

    with no_garbage_collected():  # the parts that they name are imported
        return [mistake(values) for values in configurations]


def checked(loader: CheckedLoader, master: DictConfig, jobs: list[list[str]]) -> list[list[str]]:
    """The jobs with what ``${hydra:...}`` stands for written out, all of them checked.

    Raises:
        LampQError: some of them have mistakes, which are on standard error, a line each.
    """
    configurations, composed = JobConfigurations(loader, master), []
    wrong: dict[int, str] = {}
    for number, job in enumerate(jobs):
        try:
            composed.append((number, *configurations.of(job, number)))
        except LampQError as error:
            wrong[number] = line(error)
    elsewhere = "submitit" in master.hydra.launcher._target_ or "Slurm" in master.hydra.launcher._target_
    if composed:
        lines = isolation.shared.call(mistakes, [values for _, values, _ in composed], elsewhere)
        wrong.update((number, said) for (number, _, _), said in zip(composed, lines, strict=True) if said is not None)
    if wrong:
        raise LampQError(_told(jobs, dict(sorted(wrong.items()))))
    return [overrides for _, _, overrides in composed]


def _told(jobs: list[list[str]], wrong: dict[int, str]) -> str:
    """The last line; those of the jobs are printed."""
    first = next(iter(wrong.values()))
    if len(wrong) == len(jobs) and len(set(wrong.values())) == 1:
        return first
    alike: dict[str, list[int]] = {}
    for number, said in wrong.items():
        alike.setdefault(said, []).append(number)
    if len(alike) == 1:
        return f"{first} ({len(wrong)} of {len(jobs)} jobs; none was started)"
    shared = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    for said, numbers in alike.items():
        named = numbers if len(wrong) <= LISTED else numbers[:1]
        more = f" (and {len(numbers) - 1} jobs more)" if len(named) < len(numbers) else ""
        for number in named:
            print(f"wrong: {', '.join(o for o in jobs[number] if o not in shared)}: {said}{more}", file=sys.stderr)
    return f"{len(wrong)} of {len(jobs)} jobs cannot run, so none was started; the first: {first}"


def _written_out(override: Override, cfg: DictConfig) -> str:
    if override.is_delete() or "${hydra:" not in str(override.value()):
        return override.input_line
    try:
        value = OmegaConf.select(cfg, override.key_or_group)
    except OmegaConfBaseException:
        return override.input_line
    return f"{override.get_key_element()}={value}" if isinstance(value, int | float) else override.input_line


@contextmanager
def _job_number(cfg: DictConfig, number: int) -> Iterator[None]:
    """Have ``${hydra:job.num}`` be the number of a job."""
    instance = HydraConfig.instance()
    before = instance.cfg
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.job.num, cfg.hydra.job.id = number, f"{number}"
        instance.cfg = cfg
        try:
            yield
        finally:
            instance.cfg = before
