"""How a grid becomes jobs: Hydra's own combinations, less what an experiment leaves out, each job once.

``hydra/sweeper=cells``, the default. A failing job, or one whose process dies, stops none of the others.
"""

import contextlib
import importlib
import itertools
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lampq.configuration.config_folder import experiments_module
from lampq.configuration.settings import check_grid
from lampq.errors import LampQError, line
from lampq.launch import isolation
from lampq.launch.cells import DONE, FAILED, INTERRUPTED, NOT_AVAILABLE, PLANNED, RUNNING, Cell, read_cell
from lampq.launch.failures import explain_failure
from lampq.launch.grid_check import checked
from lampq.limits import integer, optional, shown
from lampq.runs.tracking.wandb import log_report

log = logging.getLogger(__name__)


MOST_JOBS = 100_000
"""Jobs of a grid, at most."""

_grid = {"jobs": 0, "began": 0.0}
"""How many jobs the grid of this process has, and when it began."""


class CellSweeper(Sweeper):
    """Sweeps ``hydra.sweeper.params`` and the overrides of the command line.

    `experiment.stand_ins` and `experiment.without` of the configuration say which values take the place of others (a
    list: the value, and overrides that go with it) and which combinations are left out.

    Args:
        max_batch_size: jobs handed to the launcher at once; None is all of them.
        params: values to combine, by key, as they would stand on the command line.
    """

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None = None) -> None:
        self.max_batch_size = optional(integer, "hydra.sweeper.max_batch_size", max_batch_size, minimum=1)
        if params is not None and not isinstance(params, dict | DictConfig):
            raise LampQError(f"hydra.sweeper.params={shown(params)}: must be values by key, for example {{seed:'1,2'}}")
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run every job.

        Raises:
            LampQError: at the end, how many jobs failed and why the first did.
        """
        # Late, since Hydra executes its own plugins' modules again when it looks for plugins.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        loader = self.hydra_context.config_loader
        swept = [f"{key}={values}" for key, values in self.params.items()]
        parsed = OverridesParser.create(config_loader=loader).parse_overrides([*swept, *arguments])
        _check_axes(parsed)
        every = BasicSweeper.split_arguments(parsed, None)[0]
        jobs = list(self._distinct(every))
        lacking = [(job, self._lacking(job)) for job in jobs]
        available = checked(loader, self.config, [job for job, lacks in lacking if lacks is None])
        results, experiment = self._results, self.config.experiment.name
        for job in available:
            Cell.of(experiment, job).plan(results)
        for job, lacks in lacking:
            if lacks is not None:
                Cell.of(experiment, job).end(results, NOT_AVAILABLE, reason=f"{lacks} does not exist")
        if len(available) < len(jobs):
            log.info("%d of %d cells are not available yet", len(jobs) - len(available), len(jobs))
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        _grid.update(jobs=len(available), began=time.monotonic())
        answers: list[JobReturn] = []
        for batch in BasicSweeper.split_overrides_to_chunks(available, self.max_batch_size) if available else ():
            answers += self._launched(batch, len(answers))
        if experiment is not None:
            self._assemble(experiment, results)
        failures = [answer._return_value for answer in answers if answer.status is JobStatus.FAILED]
        if failures:
            count = f"{len(failures)} jobs failed, the first: " if len(failures) > 1 else ""
            first = failures[0]
            if not isinstance(first, LampQError):  # around the job, not in it: its cell could not be written
                paths = [str(self.config.paths.results), str(self.config.paths.cache)]
                first = explain_failure(first, paths, str(folder))
            raise LampQError(f"{count}{first}") from failures[0]
        return answers

    def _assemble(self, experiment: str, results: Path) -> None:
        """Put the experiment's table or figure together from all cells there are, whichever grid they came from."""
        report = experiments_module("report")
        if experiment not in report.names():
            return
        written = report.report(results, [experiment])
        for path in written:
            print(path)
        logger = OmegaConf.to_container(self.config.logger, resolve=True)
        if logger["name"] == "wandb":  # where the jobs have found out whether the server can be used
            isolation.shared.call(log_report, logger, experiment, written, results)

    def _distinct(self, combinations: list[list[str]]) -> Iterator[list[str]]:
        """Combinations with stand-ins put in, without those left out, each once."""
        experiment = OmegaConf.to_container(self.config.experiment, resolve=True)
        check_grid(experiment)
        stand_ins = experiment["stand_ins"] or {}
        seen = set()
        for combination in combinations:
            pairs = [override.partition("=")[::2] for override in combination]
            if any(_matches(dict(pairs), left_out) for left_out in experiment["without"] or ()):
                continue
            job = []
            for key, value in pairs:
                stand_in = stand_ins.get(key, {}).get(value, value)
                first, *further = stand_in if isinstance(stand_in, list) else [stand_in]
                job += [f"{key}={first}", *further]
            if tuple(job) not in seen:
                seen.add(tuple(job))
                yield job

    def _lacking(self, job: list[str]) -> str | None:
        """An option of the job that an experiment plans with and that does not exist; what was typed is refused."""
        loader = self.hydra_context.config_loader
        for override in job:
            key, _, value = override.partition("=")
            planned = [each.strip() for each in str(self.params.get(key, "")).split(",")]
            if value in planned and "/" not in key and loader.list_groups(key) is not None:
                options = loader.get_group_options(key)
                if options and value not in options:
                    return f"{key}={value}"
        return None

    def _launched(self, batch: list[list[str]], first: int) -> list[JobReturn]:
        """Answers of jobs, in their order; the first has number `first`. Lost jobs are in their cells as failed.

        A launcher that loses a process may give up all jobs under way (joblib does). Those not begun are launched
        again together, then those cut off one by one, so that the one at fault takes no other down.
        """
        before = {tuple(job): self._cell(job) for job in batch}
        try:
            answers = list(self.launcher.launch(batch, initial_job_idx=first))
        except LampQError:
            raise
        except Exception as error:
            not_begun = [job for job in batch if self._cell(job) == before[tuple(job)]]
            if len(batch) > 1 and len(not_begun) < len(batch):
                log.warning("the launcher gave up (%s); launching again what has not ended", _first_line(error))
                cut_off = [[job] for job in batch if job not in not_begun and self._cell(job).state == RUNNING]
                for part in [not_begun, *cut_off] if not_begun else cut_off:
                    self._launched(part, first + batch.index(part[0]))
            answers = [self._from_cell(job, before[tuple(job)], error) for job in batch]
        for job, answer in zip(batch, answers, strict=True):
            cell = self._cell(job)
            if answer.status is JobStatus.FAILED and cell.state_now(self._results) in (PLANNED, INTERRUPTED):
                with contextlib.suppress(OSError):  # a full disk, perhaps the reason itself
                    cell.end(self._results, FAILED, reason=line(answer._return_value))
        return answers

    def _from_cell(self, job: list[str], before: Cell, error: Exception) -> JobReturn:
        """The answer of a job whose launcher gave up; `before` is its cell before the launch."""
        cell = self._cell(job)
        answer = JobReturn(overrides=job, status=JobStatus.COMPLETED)
        if cell.state != DONE or cell == before:
            answer.status = JobStatus.FAILED
            lost = f"its process was lost ({_first_line(error)}); run the same command again to resume"
            answer.return_value = LampQError(cell.reason if cell.state == FAILED and cell != before else lost)
        return answer

    def _cell(self, job: list[str]) -> Cell:
        """A job's cell, as it is on disk."""
        return read_cell(Cell.of(self.config.experiment.name, job).path(self._results))

    @property
    def _results(self) -> Path:
        return Path(self.config.paths.results).expanduser()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def time_left(number: int) -> str:
    """How far the grid is after job `number`, where its jobs run one after another in this process; else nothing."""
    left = _grid["jobs"] - number - 1
    if left <= 0:
        return ""
    seconds = (time.monotonic() - _grid["began"]) / (number + 1) * left
    return f" ({left} of {_grid['jobs']} jobs left, about {seconds / 60:.0f} min)"


def register() -> None:
    """Make our plugins known to Hydra, which looks for them in packages named ``hydra_plugins`` only."""
    CellSweeper.__module__ = "hydra_plugins.lampq"
    Plugins.instance().register(CellSweeper)
    try:
        namespace = importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:  # no other plugin is installed
        namespace = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        namespace.__path__ = []
    namespace.lampq = sys.modules[CellSweeper.__module__] = ModuleType(CellSweeper.__module__)
    namespace.lampq.CellSweeper = CellSweeper
    with contextlib.suppress(ModuleNotFoundError):  # the extra "sweep" is not installed
        from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf

        # A failing trial is recorded as failed, and ends no search.
        goes_on = OptunaSweeperConf(max_failure_rate=1.0)
        ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=goes_on, provider="optuna_sweeper")
    with contextlib.suppress(ModuleNotFoundError):  # the extra "slurm" is not installed
        from lampq.launch.slurm import SlurmLauncher

        # Its own module's name stays: jobs on the cluster find the class by it.
        Plugins.instance().class_name_to_class["hydra_plugins.lampq.SlurmLauncher"] = SlurmLauncher
        namespace.lampq.SlurmLauncher = SlurmLauncher


def _matches(values: dict[str, str], pattern: dict[str, Any]) -> bool:
    """Whether a combination has, for every key of the pattern, its value or one of its values."""
    return all(
        values.get(key) in [str(v) for v in (wanted if isinstance(wanted, list) else [wanted])]
        for key, wanted in pattern.items()
    )


def _check_axes(overrides: list[Override]) -> None:
    """Raises:
    LampQError: a sweep has no value or too many, or goes over what all jobs of a grid share.
    """
    jobs = 1
    for override in overrides:
        if not override.is_sweep_override():
            continue
        typed = override.input_line
        if override.is_interval_sweep():
            raise LampQError(f"{typed}: an interval is for hydra/sweeper=optuna; for a grid write range(0,3) or A,B")
        try:
            values = sum(1 for _ in itertools.islice(override.sweep_string_iterator(), MOST_JOBS + 1))
        except ValueError as error:  # range(0,3,0)
            raise LampQError(f"{typed}: {line(error)}; range(0,3) stands for 0, 1 and 2") from error
        if not values:
            raise LampQError(f"{typed}: no value to try; range(0,3) stands for 0, 1 and 2")
        if override.key_or_group in ("experiment", "experiment.name", "paths.results"):
            raise LampQError(f"{typed}: the jobs of a grid share one; give the command once for each")
        jobs *= values
        if jobs > MOST_JOBS:
            raise LampQError(f"{typed}: makes a grid of more than {MOST_JOBS} jobs; give fewer values")
