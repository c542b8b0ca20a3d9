"""W&B: offline runs read back, failing servers, nothing in the home folder."""

import contextlib
import importlib.abc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from lampq.plan.bit_plan import BitPlan
from lampq.report.bit_allocation import draw_bit_allocation
from lampq.runs.tracking import Tracker, open_tracker
from lampq.runs.tracking import wandb as tracking
from lampq.runs.tracking.wandb_server import STARTED, remember, remembered
from tests.report.plans import example_plan
from tests.runs.tracking.offline_wandb import read_run, runs_in
from tests.runs.tracking.wandb_server import WandbServer

wandb = pytest.importorskip("wandb")

LOGGER = {"name": "wandb", "project": "lampq", "entity": None, "mode": "offline", "group": "table3"}
LOGGER |= {"tags": ["a", "b"], "job_type": "uniform", "timeout": 60}
CONFIG = {"model": {"name": "deit_tiny"}, "bits": 3, "seed": 7}
METRICS = {"model": "deit_tiny", "base_quantizer": "AdaLog", "allocator": "LampQ", "top1": 70.5, "bops": 12345678901}
METRICS |= {"weight_bits": 3.0, "activation_bits": 4.5}
KEY = "a" * 40
PLAN = example_plan(4)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home folder of its own, a W&B session of its own; nothing may be written to the home."""
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith("WANDB") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    wandb.teardown()
    tracking._unusable_servers.clear()
    yield home
    wandb.teardown()
    assert [path for path in home.rglob("*") if path.name != ".netrc"] == []


@pytest.fixture(scope="module")
def figure(tmp_path_factory):
    path = tmp_path_factory.mktemp("figure") / "bit_allocation.png"
    draw_bit_allocation(PLAN, path)
    return path


def track(folder: Path, figure: Path, failed: bool = False, **logger) -> Tracker:
    tracker = open_tracker(LOGGER | logger, fingerprint=f"fp-{folder.name}", config=CONFIG, folder=folder)
    tracker.log_stage("calibrate", {"seconds": 1.5, "entries": 48})
    tracker.finish(METRICS, PLAN, figure)
    tracker.close(failed=failed)
    return tracker


def warnings_of(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.startswith("lampq") and r.levelno >= logging.WARNING]


def test_offline_run_reads_back(tmp_path, figure, caplog):
    folder = tmp_path / "run"
    track(folder, figure)
    (log,) = runs_in(folder)
    run = read_run(log)
    told = {"project": "lampq", "entity": "", "group": "table3", "job_type": "uniform", "tags": ["a", "b"]}
    assert run["run"] == {"id": run["run"]["id"], "name": "deit_tiny AdaLog LampQ W3A4.5", **told}
    assert run["config"].items() >= {"fingerprint": "fp-run", **CONFIG}.items()
    assert run["summary"].items() >= METRICS.items()
    assert run["history"][0].items() >= {"calibrate/seconds": 1.5, "calibrate/entries": 48}.items()
    assert run["exit"] == 0

    table = json.loads((log.parent / "files" / run["summary"]["plan.path"]).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert rows == PLAN.to_json()["sites"]
    with Image.open(log.parent / "files" / run["summary"]["bit_allocation.path"]) as drawn, Image.open(figure) as image:
        assert drawn.size == image.size and drawn.tobytes() == image.tobytes()
    assert BitPlan.read(run["artifacts"]["bit_plan"]["plan.json"]) == PLAN
    assert warnings_of(caplog) == []


def test_a_figure_of_an_experiment_is_an_image_and_its_numbers_are_a_table(tmp_path, figure):
    files = [tmp_path / "figure7.png", tmp_path / "figure7.pdf", tmp_path / "figure7.csv"]
    for file, content in zip(files, (figure.read_bytes(), b"a PDF", b"layer,bits\nqkv,3\n"), strict=True):
        file.write_bytes(content)
    tracking.log_report(LOGGER | {"group": "figure7"}, "figure7", files, tmp_path / "results")
    (log,) = runs_in(tmp_path / "results" / "experiments" / "figure7")
    report = read_run(log)
    assert (report["run"]["group"], report["run"]["job_type"]) == ("figure7", "report")
    summary = report["summary"]
    assert summary["figure7 figure._type"] == "image-file" and summary["figure7._type"] == "table-file"
    table = json.loads((log.parent / "files" / summary["figure7.path"]).read_text())
    assert (table["columns"], table["data"]) == (["layer", "bits"], [["qkv", 3]])


def test_everything_lies_under_the_run_folder(tmp_path, figure):
    environment = dict(os.environ)
    track(tmp_path / "run", figure)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["wandb"]
    assert not (set(os.environ) - set(environment) - {"WANDB_SERVICE"})


def test_two_jobs_of_one_process_are_two_runs(tmp_path, figure):
    runs = []
    for name in ("first", "second"):
        track(tmp_path / name, figure)
        (log,) = runs_in(tmp_path / name)
        runs.append(read_run(log))
    assert runs[0]["run"]["id"] != runs[1]["run"]["id"]
    assert [run["config"]["fingerprint"] for run in runs] == ["fp-first", "fp-second"]
    assert [len(run["history"]) for run in runs] == [2, 2]


def test_a_run_of_the_caller_stays_open(tmp_path, figure, monkeypatch):
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    own = wandb.init(mode="offline", dir=str(tmp_path), settings=wandb.Settings(silent=True, console="off"))
    track(tmp_path / "run", figure)
    assert wandb.run is own
    own.log({"a": 1})
    own.finish()
    (log,) = runs_in(tmp_path)
    assert len(read_run(log)["history"]) == 1


def test_a_failed_run_exits_with_failure(tmp_path):
    tracker = open_tracker(LOGGER, fingerprint="f", config=CONFIG, folder=tmp_path / "run")
    tracker.close(failed=True)
    tracker.close(failed=True)
    (log,) = runs_in(tmp_path / "run")
    assert read_run(log)["exit"] == 1


def test_a_failing_call_warns_once_and_the_run_goes_on(tmp_path, caplog):
    folder = tmp_path / "run"
    tracker = open_tracker(LOGGER, fingerprint="f", config=CONFIG, folder=folder)
    tracker.finish(METRICS, PLAN, tmp_path / "missing.png")
    tracker.log_stage("late", {"seconds": 1.0})
    tracker.close(failed=False)
    assert len(warnings_of(caplog)) == 1 and "missing.png" in warnings_of(caplog)[0]
    (log,) = runs_in(folder)
    run = read_run(log)
    assert run["summary"]["top1"] == 70.5 and "late/seconds" not in run["summary"] and run["exit"] == 0


def test_an_unwritable_folder_only_warns(tmp_path, figure, caplog):
    (tmp_path / "run").write_text("a file where the folder should be")
    assert type(track(tmp_path / "run", figure)) is Tracker
    assert len(warnings_of(caplog)) == 1


def test_a_missing_package_only_warns(tmp_path, figure, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", None)
        assert type(track(tmp_path / "run", figure)) is Tracker
    assert len(warnings_of(caplog)) == 1 and "pip install wandb" in caplog.text


def test_csv_needs_nothing(tmp_path, figure):
    assert type(track(tmp_path / "run", figure, name="csv")) is Tracker
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_without_a_key_it_logs_offline(tmp_path, figure, caplog, mode):
    started = time.monotonic()
    track(tmp_path / "run", figure, mode=mode)
    assert time.monotonic() - started < 10
    assert len(runs_in(tmp_path / "run")) == 1
    assert len(warnings_of(caplog)) == 1 and "wandb login" in warnings_of(caplog)[0]


@pytest.mark.parametrize(("variable", "runs"), [("offline", 1), ("disabled", 0)])
def test_auto_follows_wandb_mode(tmp_path, figure, monkeypatch, caplog, variable, runs):
    monkeypatch.setenv("WANDB_MODE", variable)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    track(tmp_path / "run", figure, mode="auto")
    assert len(runs_in(tmp_path / "run")) == runs and warnings_of(caplog) == []


@contextlib.contextmanager
def server(kind: str):
    """An address where nobody listens, or nobody answers; servers that answer late, fail, or refuse the key."""
    if kind == "dead":
        yield "http://127.0.0.1:9"
    elif kind == "silent":
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(50)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    else:
        running = {
            "slow": lambda: WandbServer(seconds=30),
            "broken": lambda: WandbServer(500),
            "refusing": lambda: WandbServer(401),
        }[kind]()
        yield running.url
        running.close()


@pytest.mark.parametrize("kind", ["dead", "silent", "slow", "broken", "refusing"])
def test_an_unusable_server_costs_its_time_limit_once_in_a_grid(tmp_path, figure, monkeypatch, caplog, kind):
    caplog.set_level(logging.INFO, "lampq")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv(STARTED, str(time.time()))
    with server(kind) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        started = time.monotonic()
        track(tmp_path / "runs" / "first", figure, mode="auto", timeout=10)
        first = time.monotonic() - started
        tracking._unusable_servers.clear()  # as in another process of the grid
        monkeypatch.setattr(tracking, "ask", lambda *_: pytest.fail("asked again"))
        track(tmp_path / "runs" / "second", figure, mode="auto", timeout=10)
        second = time.monotonic() - started - first
    assert first < 10 + 3 and second < 10 + 3, (first, second)
    assert len(warnings_of(caplog)) == 1 and url in warnings_of(caplog)[0]
    said = [record.getMessage() for record in caplog.records if record.name == "lampq.runs.tracking.wandb"]
    assert len(said) == 2 and "as a job before found" in said[1]
    for name, line in zip(("first", "second"), said, strict=True):
        folder = tmp_path / "runs" / name
        assert f"logging offline, `wandb sync {folder}/wandb/*run-*` sends it later" in line
        (log,) = runs_in(folder)
        assert read_run(log)["summary"]["top1"] == 70.5
        assert not list((folder / "wandb").glob("run-*"))


def test_a_server_is_asked_again_by_the_next_command_and_after_a_while(tmp_path, monkeypatch):
    remember(tmp_path, "http://one", "no")
    assert remembered(tmp_path, "http://one") is None  # not in a grid
    monkeypatch.setenv(STARTED, str(time.time() - 10))
    assert remembered(tmp_path, "http://one") == "no" and remembered(tmp_path, "http://other") is None
    monkeypatch.setattr("lampq.runs.tracking.wandb_server.FORGOTTEN_AFTER", -1)
    assert remembered(tmp_path, "http://one") is None
    monkeypatch.undo()
    monkeypatch.setenv(STARTED, str(time.time() + 10))
    assert remembered(tmp_path, "http://one") is None
    (note,) = (tmp_path / ".locks").iterdir()
    note.write_text("[")
    assert remembered(tmp_path, "http://one") is None
    remember(note, "http://one", "a file is in the way of the folder")


def test_a_server_that_falls_silent_costs_the_time_limit_and_loses_nothing(tmp_path, figure, monkeypatch, caplog):
    running = WandbServer(silent_after="UpsertBucket")
    monkeypatch.setenv("WANDB_BASE_URL", running.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    folder = tmp_path / "runs" / "run"
    started = time.monotonic()
    track(folder, figure, mode="auto", timeout=10)
    assert time.monotonic() - started < 10 + 3
    running.close()
    assert len(warnings_of(caplog)) == 1 and f"`wandb sync {folder}/wandb/*run-*` sends it later" in caplog.text
    (log,) = (folder / "wandb").glob("run-*/*.wandb")
    assert read_run(log)["summary"]["top1"] == 70.5
    assert running.url in tracking._unusable_servers


def test_a_service_process_that_hangs_is_left_behind(tmp_path, figure, caplog):
    tracker = open_tracker(LOGGER | {"timeout": 5}, fingerprint="f", config=CONFIG, folder=tmp_path / "run")
    service = tracking._service_of(wandb)
    os.kill(service.pid, signal.SIGSTOP)
    started = time.monotonic()
    tracker.finish(METRICS, PLAN, figure)
    tracker.close(failed=False)
    assert time.monotonic() - started < 5 + 3
    assert len(warnings_of(caplog)) == 1 and service.poll() is not None


def test_a_wandb_that_cannot_be_imported_is_one_line(tmp_path, figure, caplog, monkeypatch):
    class Broken(importlib.abc.MetaPathFinder):
        def find_spec(self, name, *_):
            if name == "wandb":
                raise AttributeError("module 'numpy' has no attribute 'float_'")

    monkeypatch.delitem(sys.modules, "wandb")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert type(track(tmp_path / "run", figure)) is Tracker
    assert len(warnings_of(caplog)) == 1 and "'float_'" in caplog.text


@pytest.mark.parametrize("source", ["environment", "netrc"])
def test_online_with_a_key_and_a_server(tmp_path, figure, home, monkeypatch, caplog, source):
    running = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", running.url)
    if source == "environment":
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    else:
        (home / ".netrc").write_text(f"machine {running.url.removeprefix('http://')}\n  login user\n  password {KEY}\n")
        (home / ".netrc").chmod(0o600)
    track(tmp_path / "run", figure, mode="auto", timeout=10)
    assert warnings_of(caplog) == []
    assert running.operations.count("CreateArtifact") == 2  # the table and the plan
    assert json.loads(running.uploads["/upload/wandb-summary.json"])["top1"] == 70.5
    assert runs_in(tmp_path / "run") == []
    running.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dead", "silent"])
def test_an_unusable_server_costs_a_process_at_most_10_seconds(tmp_path, figure, kind):
    """With the default time limit, from the start of the process to its end."""
    script = f"""
from pathlib import Path
from lampq.runs.tracking import open_tracker
logger = {LOGGER | {"mode": "auto", "timeout": 10}!r}
tracker = open_tracker(logger, fingerprint="f", config={CONFIG!r}, folder=Path({str(tmp_path / "run")!r}))
tracker.close(failed=False)
"""
    with server(kind) as url:
        environment = os.environ | {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY}
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and time.monotonic() - started < 10, done.stderr
    assert done.stderr.count("logging offline") == 1 and len(runs_in(tmp_path / "run")) == 1
