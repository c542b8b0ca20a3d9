"""Where a run's time goes: seconds of its stages, and what it would have cost with nothing in the store."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from lampq.runs.tracking import Tracker
from lampq.storage.store import Store


class StageTimes:
    """A clock that runs from when it is made.

    Args:
        store: counts what was spent on entries, and what those that were read had cost.
        tracker: is told of each stage when it is over.

    Attributes:
        stages: seconds by stage.
    """

    def __init__(self, store: Store, tracker: Tracker) -> None:
        self._store, self._tracker = store, tracker
        self._started = time.perf_counter()
        self.stages: dict[str, float] = {}

    def computing(self, *kinds: str) -> float:
        """Seconds spent so far on entries of these kinds."""
        return sum(self._store.seconds_computed.get(kind, 0.0) for kind in kinds)

    def allocated(self) -> None:
        """The plan is chosen and built: what was not spent on calibration (or on making images) was on the choice."""
        self.stages["calibrate"] = self.computing("bank", "realisation")
        spent = time.perf_counter() - self._started
        self.stages["allocate"] = spent - self.stages["calibrate"] - self.computing("synthesis")
        self.stages["evaluate"] = 0.0
        for stage in ("calibrate", "allocate"):
            self._tracker.log_stage(stage, {"seconds": self.stages[stage]})

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Count what is done meanwhile as the evaluation."""
        started = time.perf_counter()
        yield
        self.stages["evaluate"] = time.perf_counter() - started

    def evaluated(self, accuracies: dict[str, float]) -> None:
        """The evaluation is over; percent by the accuracy's name."""
        self._tracker.log_stage("evaluate", {"seconds": self.stages["evaluate"], **accuracies})

    @property
    def metrics(self) -> dict[str, float]:
        """Seconds of each stage, of all until now, and of all with nothing in the store."""
        total = time.perf_counter() - self._started
        stages = {f"seconds_{name}": seconds for name, seconds in self.stages.items()}
        return {**stages, "seconds_total": total, "seconds_cold": total + sum(self._store.seconds_read.values())}
