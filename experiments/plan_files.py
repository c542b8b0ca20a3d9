"""Plans by what a user types: a plan file, a run's folder, a run's fingerprint."""

from pathlib import Path

from lampq.errors import LampQError
from lampq.runs.finished_run import DamagedRun, ended, read_run

from .measured import Run

SHORTEST = 4
"""Characters of a fingerprint that may stand for all of it."""


def find_plan(text: str, results: Path) -> Path:
    """The plan file that a user means.

    Args:
        text: path of a plan file or of a run's folder, or the fingerprint of a run (or how it begins).
        results: where runs are looked for by fingerprint.

    Raises:
        LampQError: there is none, or several fingerprints begin so.
    """
    path = Path(text).expanduser()
    if path.is_file():
        return path
    if (path / "plan.json").is_file():
        return path / "plan.json"
    found = sorted((results / "runs").glob(f"{text}*/plan.json")) if text.isalnum() and len(text) >= SHORTEST else []
    if len(found) > 1:
        names = ", ".join(each.parent.name for each in found[:3])
        raise LampQError(f"{text}: {len(found)} runs begin so ({names} ...); give more of the fingerprint")
    if not found:
        raise LampQError(
            f"{text}: no plan; give a plan.json, a run's folder, or the fingerprint of a run under {results / 'runs'}"
        )
    return found[0]


def run_of(plan: Path) -> Run | None:
    """The finished run that a plan file belongs to; None where it lies by itself.

    Raises:
        DamagedRun: the run's files are not as they were written.
    """
    return read_run(plan.parent, Run) if plan.name == "plan.json" and ended(plan.parent) else None


def costs_beside(plan: Path) -> dict | None:
    """The metrics of the run that a plan file belongs to; None where it lies by itself, or the run is damaged."""
    try:
        run = run_of(plan)
    except DamagedRun:
        return None
    return None if run is None else run.metrics
