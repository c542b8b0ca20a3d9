"""What a run tells its logger."""

from pathlib import Path

from lampq.plan.bit_plan import BitPlan


class Tracker:
    """Follows one run. This one keeps nothing beyond the run's folder and runs.csv, which are always written.

    No method raises: a logger is never the reason that a run fails.
    """

    def log_stage(self, name: str, values: dict[str, float]) -> None:
        """Tell the numbers of a stage, for example its seconds, when it is done."""

    def finish(self, metrics: dict, plan: BitPlan | None, figure: Path | None) -> None:
        """Tell the results: metrics (numbers and labels), the bit plan and a figure (PNG), if any."""

    def close(self, failed: bool) -> None:
        """End the run's log, after `finish` or after a failure."""
