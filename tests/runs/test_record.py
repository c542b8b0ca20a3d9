"""The record of a run: its fingerprint, its files, when it counts as finished."""

import json
import logging
import sys
from fractions import Fraction

import pytest
import torch
import yaml

from lampq.errors import LampQError
from lampq.plan.budget import Budget
from lampq.runs.kernels import kernels
from lampq.runs.record import RunRecord, environment
from tests.small_models import vit_adapter

IDENTITY = {"model": "small", "bits": 3, "settings": {"a": [1, 2]}}
METRICS = {"model": "m", "dataset": "d", "base_quantizer": "q", "allocator": "a", "weight_bits": 3.0}
METRICS |= {"activation_bits": 3.0, "seed": 0, "top1": 12.5}
CONFIG = {"bits": 3, "paths": {"results": "results"}, "list": [1, 2], "none": None}


def record(tmp_path, **changes):
    return RunRecord(tmp_path, {**IDENTITY, **changes}, CONFIG)


@pytest.fixture
def plan():
    sites = vit_adapter(1).sites
    return Budget(Fraction(3), Fraction(3), (2, 3), "fixed", (3, 3), "target").plan(
        sites, {site.name: 3 for site in sites if site.allocated}
    )


def test_the_folder_is_named_by_the_identity_alone(tmp_path):
    one, same = record(tmp_path), RunRecord(tmp_path, dict(reversed(IDENTITY.items())), {"another": "config"})
    assert one.fingerprint == same.fingerprint and one.folder == tmp_path / "runs" / one.fingerprint
    assert record(tmp_path, bits=4).fingerprint != one.fingerprint
    assert not one.folder.exists(), "nothing is written before the work starts"


def test_what_was_asked_and_where_it_ran_is_written_before_the_work(tmp_path):
    run = record(tmp_path)
    run.start("cpu", 1, {"calibration": ["train/a.png"], "sample": [], "validation": []})
    run.close()
    assert yaml.safe_load((run.folder / "config.yaml").read_text()) == CONFIG
    assert list(yaml.safe_load((run.folder / "config.yaml").read_text())) == list(CONFIG), "in the user's order"
    assert json.loads((run.folder / "identity.json").read_text()) == IDENTITY
    assert json.loads((run.folder / "images.json").read_text())["calibration"] == ["train/a.png"]
    where = json.loads((run.folder / "environment.json").read_text())
    assert where["device"] == "cpu" and where["threads"] == 1
    assert where["kernels"] == kernels("cpu")
    assert where["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert not run.finished
    with pytest.raises(LampQError, match="the run is not finished"):
        assert run.metrics


def finished(tmp_path, plan):
    """A run with everything in its folder."""
    run = record(tmp_path)
    run.start("cpu", 1, {"sample": ["a.png"]})
    run.write_plan(plan)
    rows = [{"image": i, "full_precision_top1": a, "top1": b} for i, (a, b) in enumerate([(1, 1), (0, 0), (1, 0)])]
    run.write_rows("outcomes.csv", rows)
    run.finish(METRICS | {"fingerprint": run.fingerprint})
    run.close()
    return run


def test_metrics_and_then_digests_finish_a_run(tmp_path, plan, monkeypatch):
    run = record(tmp_path)
    run.start("cpu", 1, {})
    run.write_plan(plan)
    assert not run.finished
    with monkeypatch.context() as killed:
        killed.setattr("lampq.runs.record.seal", lambda folder: None)
        run.finish(METRICS | {"fingerprint": run.fingerprint})
    assert not run.finished and "interrupted" in run.damage.reason
    run.finish(METRICS | {"fingerprint": run.fingerprint})
    run.close()
    again = record(tmp_path)
    assert again.finished and again.metrics["top1"] == 12.5 and again.plan == plan
    assert not [path for path in run.folder.iterdir() if path.suffix == ".tmp"]


def test_a_run_that_begins_again_is_not_finished_until_it_ends(tmp_path, plan):
    run = finished(tmp_path, plan)
    run.start("cpu", 1, {})
    run.close()
    assert not record(tmp_path).finished and not (run.folder / "plan.json").exists()


def test_what_was_made_of_an_earlier_try_goes_and_what_is_a_users_own_stays(tmp_path, plan):
    run = finished(tmp_path, plan)
    run.model.mkdir()
    for name in ("model.safetensors", "config.json", "README.md", "notes.txt"):
        (run.model / name).touch()
    (run.folder / "verify.csv").touch()
    run.start("cpu", 1, {})
    run.close()
    assert [path.name for path in run.model.iterdir()] == ["notes.txt"] and not (run.folder / "verify.csv").exists()


def test_the_log_goes_into_the_folder_until_closed(tmp_path):
    run, log = record(tmp_path), logging.getLogger("lampq.somewhere")
    handlers = list(logging.getLogger("lampq").handlers)
    run.start("cpu", 1, {})
    log.warning("first")
    run.close()
    run.close()
    log.warning("second")
    text = (run.folder / "log.txt").read_text()
    assert "first" in text and "second" not in text and "lampq.somewhere" in text
    assert logging.getLogger("lampq").handlers == handlers


def test_a_failure_leaves_its_reason_and_the_next_start_removes_it(tmp_path):
    run = record(tmp_path)
    run.fail("before anything was there")
    assert not run.folder.exists()
    run.start("cpu", 1, {})
    run.fail("images ran out")
    run.close()
    assert (run.folder / "failure.txt").read_text() == "images ran out" and not run.finished
    run.start("cpu", 1, {})
    run.close()
    assert not (run.folder / "failure.txt").exists()


def test_the_environment_names_what_a_number_depends_on():
    found = environment("cuda:1", 4)
    keys = {"command", "started", "commit", "python", "device", "processor", "threads", "kernels", "packages"}
    assert set(found) == keys and found["device"] == "cuda:1" and found["threads"] == 4
    assert all(found["packages"][name] for name in ("torch", "timm", "hydra-core", "pulp", "numpy"))
    assert found["started"].endswith("+00:00")
    json.dumps(found)


def test_a_command_can_be_typed_again_after_python(monkeypatch):
    for program, told in (("/home/me/lampq/run.py", "run.py"), ("/home/me/experiments/__main__.py", "-m experiments")):
        monkeypatch.setattr(sys, "argv", [program, "x=1"])
        assert environment("cpu", 1)["command"] == f"{told} x=1"
    assert environment("cpu", 1, ("torch",))["packages"].keys() == {"torch"}
