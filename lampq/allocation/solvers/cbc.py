"""PuLP's solver CBC, an executable of its own: where it cannot be executed, plans are found without it."""

import logging
import subprocess
from functools import cache

import pulp

log = logging.getLogger(__name__)

SECONDS_TO_ANSWER = 20
"""In which CBC must start and end again; it does in a hundredth of one."""


def solve(model: pulp.LpProblem, **options: object) -> bool:
    """Solve a model in place.

    Args:
        model: the model.
        options: of `pulp.PULP_CBC_CMD`.

    Returns:
        Whether CBC answered. Where it did not, the reason is in the log, and the caller has a way of its own.
    """
    try:
        solver = pulp.PULP_CBC_CMD(msg=False, gapRel=0, gapAbs=0, **options)
        reason = _why_not(solver.path) if solver.available() else "it is not there or not executable"
        if reason is None:
            model.solve(solver)
            return True
    except Exception as error:  # PuLP raises what its files and CBC's answer happen to lead to
        reason = str(error).split("\n")[0] or type(error).__name__
    _tell(reason)
    return False


@cache
def _why_not(path: str) -> str | None:
    """Why an executable that is there is of no use, for example one for another processor; None where it works."""
    try:
        done = subprocess.run(
            [path, "-quit"], stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS_TO_ANSWER, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode:
        return f"{path} ends with status {done.returncode}"
    return None if b"CBC" in done.stdout.upper() else f"{path} is another program"


@cache
def _tell(reason: str) -> None:
    log.warning("CBC cannot be used (%s); plans are found without it: pip install --force-reinstall pulp", reason)
