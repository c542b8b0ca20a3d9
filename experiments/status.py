"""How the cells of experiments stand: `python -m experiments status [NAME]`."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lampq.errors import LampQError
from lampq.launch.cells import DONE, FAILED, INTERRUPTED, NOT_AVAILABLE, RUNNING, experiments_with_cells
from lampq.limits import did_you_mean

from .frame import DAMAGED, MISSING, frame
from .frame import left_out as damage

ORDER = (DONE, RUNNING, FAILED, INTERRUPTED, DAMAGED, MISSING, NOT_AVAILABLE)
STYLES = {DONE: "green", RUNNING: "cyan", FAILED: "red", INTERRUPTED: "yellow", DAMAGED: "yellow"}


def status(
    results: Path, name: str | None = None, console: Console | None = None, left_out: list[str] | None = None
) -> bool:
    """Print how many cells are done, running, failed, interrupted, damaged, missing or not available, and why.

    Args:
        left_out: gets a line on each cell that cannot be read and each run that is damaged.

    Returns:
        Whether every available cell is done.

    Raises:
        LampQError: nothing is known of such an experiment.
    """
    console = console or Console()
    known = experiments_with_cells(results)
    if name is not None and name not in known:
        near = did_you_mean(name, known) or f"; known: {', '.join(known) or 'none'}"
        raise LampQError(f"{name}: no cells under {results / 'experiments'}{near}")
    if not known:
        raise LampQError(f"{results / 'experiments'}: no cells; run an experiment first: python run.py experiment=NAME")
    chosen = [name] if name else known
    rows = frame(results, chosen)
    if left_out is not None:
        left_out += damage(results, rows, chosen)
    for experiment, mine in rows.groupby("experiment"):
        counts = mine.state.value_counts()
        told = ", ".join(f"[{STYLES.get(s, 'dim')}]{counts[s]} {s}[/]" for s in ORDER if s in counts)
        console.print(f"[bold]{experiment}[/]: {told}")
        for row in mine.itertuples() if name else ():
            what = ", ".join(f"{key}={value}" for key, value in row.asked.items())
            why = {
                DONE: f" {row.run and row.run.folder}",
                FAILED: f": {row.reason}",
                NOT_AVAILABLE: f": {row.reason}",
                DAMAGED: f": {row.damage}",
                RUNNING: f" since {row.cell.started} on {row.cell.host}",
                INTERRUPTED: f" (began {row.cell.started}); run the same command again to resume",
            }.get(row.state, "")
            console.print(f"  [{STYLES.get(row.state, 'dim')}]{row.state}[/] {escape(what + why)}", soft_wrap=True)
            if row.state == FAILED and row.cell.traceback:
                console.print(escape(row.cell.traceback), style="dim", soft_wrap=True)
    return bool(rows.state.isin([DONE, NOT_AVAILABLE]).all())
