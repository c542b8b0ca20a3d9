"""Where a run is logged: CSV files always, W&B when asked."""

from pathlib import Path
from typing import Any

from lampq.runs.tracking.csv import rebuild_runs_csv
from lampq.runs.tracking.tracker import Tracker
from lampq.runs.tracking.wandb import open_wandb_tracker

__all__ = ["Tracker", "open_tracker", "rebuild_runs_csv"]


def open_tracker(logger: dict[str, Any], *, fingerprint: str, config: dict, folder: Path) -> Tracker:
    """Start to follow a run; never raises.

    Args:
        logger: `name` (``csv`` or ``wandb``) and what that logger takes.
        fingerprint: of the run.
        config: the resolved configuration.
        folder: the run's folder; W&B's files go under it, into ``wandb/``.
    """
    if logger["name"] == "wandb":
        return open_wandb_tracker(logger, fingerprint=fingerprint, config=config, folder=Path(folder))
    return Tracker()
