"""Seconds of a run's stages add up, and tell what a run costs that has nothing in the store."""

import time
from types import SimpleNamespace

import pytest

from lampq.runs.stage_times import StageTimes
from lampq.runs.tracking import Tracker


class Told(Tracker):
    def __init__(self):
        self.stages = []

    def log_stage(self, name, values):
        self.stages.append((name, sorted(values)))


def test_stages_are_told_apart(monkeypatch):
    clock = iter([100.0, 110.0, 111.0, 113.0, 120.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    computed = {"bank": 2.0, "realisation": 1.0, "synthesis": 3.0, "scores": 0.5}
    store, tracker = SimpleNamespace(seconds_computed=computed, seconds_read={"bank": 7.0, "scores": 1.0}), Told()
    times = StageTimes(store, tracker)
    times.allocated()
    with times.evaluating():
        pass
    times.evaluated({"top1": 50.0})
    assert times.metrics == pytest.approx(
        {
            "seconds_calibrate": 3.0,
            "seconds_allocate": 4.0,
            "seconds_evaluate": 2.0,
            "seconds_total": 20.0,
            "seconds_cold": 28.0,
        }
    )
    assert tracker.stages == [(stage, ["seconds"]) for stage in ("calibrate", "allocate")] + [
        ("evaluate", ["seconds", "top1"])
    ]
