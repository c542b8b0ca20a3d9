"""One job: check the configuration, run it, say what came out. Called in this process or in an isolated one."""

import logging.config
import traceback
from dataclasses import dataclass, replace
from typing import Any

from lampq.errors import LampQError
from lampq.launch.failures import explain_failure
from lampq.launch.imports import no_garbage_collected
from lampq.launch.memory import keep_freed_memory


@dataclass(frozen=True)
class Outcome:
    """What a job hands back.

    Attributes:
        fingerprints: of its runs, the one asked for last.
        objective: mean loss on the sample set D, which a sweeper may minimize (never a validation figure), or None.
        line: its result in one line.
    """

    fingerprints: list[str]
    objective: float | None
    line: str


def perform(values: dict[str, Any], alone: bool) -> Outcome:
    """Run the job of a composed configuration.

    Args:
        values: the configuration, interpolations resolved.
        alone: whether its results are shown at length, or not at all (a grid shows a line for each).

    Raises:
        LampQError: a user's mistake.
    """
    keep_freed_memory()
    with no_garbage_collected():
        from lampq.configuration.settings import check_values

        settings = check_values(values)  # imports the parts that it names
    if settings.save_model is None:
        settings = replace(settings, save_model=alone and settings.bank == "reuse")
    with no_garbage_collected():
        import timm  # noqa: F401 - every model needs it, and a mistake above was told without it

        from lampq.pipeline import run
        from lampq.report.console import show, summary_line

    records = run(settings)
    if alone:
        show(records)
    last = records[-1]
    return Outcome([r.fingerprint for r in records], last.metrics.get("sample_loss"), summary_line(last))


def attempt(
    values: dict[str, Any], logging_config: dict[str, Any], paths: list[str], folder: str
) -> Outcome | LampQError:
    """Run a job of a grid in a process of its own; a failure comes back explained.

    Args:
        values: the configuration, interpolations resolved.
        logging_config: how the process logs, for `logging.config.dictConfig`.
        paths, folder: see `explain_failure`.

    Returns:
        What came out, or the failure in one line, with the traceback of an unexpected one as its note.
    """
    logging.config.dictConfig(logging_config)
    try:
        return perform(values, alone=False)
    except LampQError as error:
        return error
    except (Exception, SystemExit) as error:
        failure = LampQError(explain_failure(error, paths, folder))
        failure.add_note("".join(traceback.format_exception(error)))
        return failure
