"""How a grid becomes jobs: Hydra's own combinations, less what an experiment leaves out, each job once.

``hydra/sweeper=cells``, the default. A failing job, or one whose process dies, stops none of the others.
"""

import importlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lampq.cells import DONE, FAILED, NOT_AVAILABLE, Cell, read_cell
from lampq.config_folder import experiments_module
from lampq.errors import LampQError
from lampq.tracking.wandb import log_report

log = logging.getLogger(__name__)


_grid = {"jobs": 0, "began": 0.0}
"""How many jobs the grid of this process has, and when it began."""


class CellSweeper(Sweeper):
    """Sweeps ``hydra.sweeper.params`` and the overrides of the command line.

    `experiment.stand_ins` and `experiment.without` of the configuration say which values take the place of others and
    which combinations are left out.

    Args:
        max_batch_size: jobs handed to the launcher at once; None is all of them.
        params: values to combine, by key, as they would stand on the command line.
    """

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None = None) -> None:
        self.max_batch_size = max_batch_size
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
        every = BasicSweeper.split_arguments(parsed, None)[0]
        jobs = list(self._distinct(every))
        self.validate_batch_is_legal(_each_value_once(jobs))
        results, experiment = Path(self.config.paths.results), self.config.experiment.name
        available = []
        for job in jobs:
            cell, lacking = Cell.of(experiment, job), self._lacking(job)
            if lacking is None:
                cell.plan(results)
                available.append(job)
            else:
                cell.end(results, NOT_AVAILABLE, reason=f"{lacking} does not exist")
        if len(available) < len(jobs):
            log.info("%d of %d cells are not available yet", len(jobs) - len(available), len(jobs))
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        _grid.update(jobs=len(available), began=time.monotonic())
        answers = []
        for batch in BasicSweeper.split_overrides_to_chunks(available, self.max_batch_size) if available else ():
            try:
                answers += self.launcher.launch(batch, initial_job_idx=len(answers))
            except Exception as error:  # a launcher that lost a job; what became of each is in its cell
                log.warning("the launcher gave up: %s", str(error).splitlines()[0] if str(error) else error)
                answers += self._from_cells(batch, error)
        if experiment is not None:
            self._assemble(experiment, results)
        failures = [answer._return_value for answer in answers if answer.status is JobStatus.FAILED]
        if failures:
            count = f"{len(failures)} jobs failed, the first: " if len(failures) > 1 else ""
            raise LampQError(f"{count}{failures[0]}") from failures[0]
        return answers

    def _assemble(self, experiment: str, results: Path) -> None:
        """Put the experiment's table or figure together from all cells there are, whichever grid they came from."""
        report = experiments_module("report")
        if experiment not in report.names():
            return
        written = report.report(results, [experiment])
        for path in written:
            print(path)
        log_report(OmegaConf.to_container(self.config.logger, resolve=True), experiment, written, results)

    def _distinct(self, combinations: list[list[str]]) -> Iterator[list[str]]:
        """Combinations with stand-ins put in, without those left out, each once."""
        experiment = OmegaConf.to_container(self.config.experiment, resolve=True)
        stand_ins = experiment["stand_ins"] or {}
        seen = set()
        for combination in combinations:
            pairs = [override.partition("=")[::2] for override in combination]
            if any(_matches(dict(pairs), left_out) for left_out in experiment["without"] or ()):
                continue
            job = [f"{key}={stand_ins.get(key, {}).get(value, value)}" for key, value in pairs]
            if tuple(job) not in seen:
                seen.add(tuple(job))
                yield job

    def _lacking(self, job: list[str]) -> str | None:
        """An option of the job that an experiment plans with and that does not exist."""
        loader = self.hydra_context.config_loader
        for override in job:
            key, _, value = override.partition("=")
            if key in self.params and "/" not in key and loader.list_groups(key) is not None:
                options = loader.get_group_options(key)
                if options and value not in options:
                    return f"{key}={value}"
        return None

    def validate_batch_is_legal(self, batch: list[list[str]]) -> None:
        super().validate_batch_is_legal([job for job in batch if self._lacking(job) is None])

    def _from_cells(self, batch: list[list[str]], error: Exception) -> list[JobReturn]:
        answers = []
        for job in batch:
            cell = read_cell(Cell.of(self.config.experiment.name, job).path(Path(self.config.paths.results)))
            answer = JobReturn(overrides=job, status=JobStatus.COMPLETED)
            if cell.state != DONE:
                answer.status = JobStatus.FAILED
                reason = cell.reason if cell.state == FAILED else f"{error}; run the same command again to resume"
                answer.return_value = LampQError(f"{' '.join(job)}: {reason}")
            answers.append(answer)
        return answers


def time_left(number: int) -> str:
    """How far the grid is after job `number`, where its jobs run one after another in this process; else nothing."""
    left = _grid["jobs"] - number - 1
    if left <= 0:
        return ""
    seconds = (time.monotonic() - _grid["began"]) / (number + 1) * left
    return f" ({left} of {_grid['jobs']} jobs left, about {seconds / 60:.0f} min)"


def register() -> None:
    """Make the sweeper known to Hydra, which looks for plugins in packages named ``hydra_plugins`` only."""
    CellSweeper.__module__ = "hydra_plugins.lampq"
    Plugins.instance().register(CellSweeper)
    try:
        namespace = importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:  # no other plugin is installed
        namespace = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        namespace.__path__ = []
    namespace.lampq = sys.modules[CellSweeper.__module__] = ModuleType(CellSweeper.__module__)
    namespace.lampq.CellSweeper = CellSweeper


def _matches(values: dict[str, str], pattern: dict[str, Any]) -> bool:
    """Whether a combination has, for every key of the pattern, its value or one of its values."""
    return all(
        values.get(key) in [str(v) for v in (wanted if isinstance(wanted, list) else [wanted])]
        for key, wanted in pattern.items()
    )


def _each_value_once(jobs: list[list[str]]) -> list[list[str]]:
    """As few jobs as show every value once: enough to find a mistake before the first job runs."""
    seen: set[str] = set()
    chosen = []
    for job in jobs:
        if not seen.issuperset(job):
            seen.update(job)
            chosen.append(job)
    return chosen
