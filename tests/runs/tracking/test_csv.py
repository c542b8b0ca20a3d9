"""runs.csv: a view of the run folders that loses no row."""

import csv
import json
import logging
import shutil
import subprocess
import sys
import time

import pytest

from lampq.runs.finished_run import LABELS, seal
from lampq.runs.tracking import rebuild_runs_csv
from lampq.runs.tracking.csv import METRICS
from lampq.storage.fingerprint import fingerprint
from lampq.storage.lock import hold

WRITER = """
import sys
from pathlib import Path
from lampq.runs.tracking import rebuild_runs_csv
from tests.runs.tracking.test_csv import write_run
results, name = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for i in range(int(sys.argv[3])):
    write_run(results, f"{name}{i}")
    rebuild_runs_csv(results)
"""


def of(name):
    return fingerprint({"name": name})


def write_run(results, name, **values):
    """A finished run, whose fingerprint is `of(name)`."""
    identity, folder = {"name": name}, results / "runs" / of(name)
    metrics = {
        "fingerprint": folder.name,
        "model": "deit_tiny",
        "dataset": "imagenet",
        "base_quantizer": "adalog",
        "allocator": "uniform",
        "weight_bits": 3.0,
        "activation_bits": 3.0,
        "seed": 0,
        "top1": 70.25,
    } | values
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("bits: 3")
    for file, content in (("metrics", metrics), ("identity", identity), ("environment", {}), ("images", {})):
        (folder / f"{file}.json").write_text(json.dumps(content))
    seal(folder)
    return folder


def read(results):
    with (results / "runs.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        return reader.fieldnames, list(reader)


def test_columns_come_in_a_fixed_order_and_others_follow_sorted(tmp_path):
    write_run(tmp_path, "f0", zeta=1, alpha=2, **{name: 1.5 for name in reversed(METRICS)})
    write_run(tmp_path, "f1", middle=3)
    assert rebuild_runs_csv(tmp_path) == tmp_path / "runs.csv"
    columns, rows = read(tmp_path)
    assert columns == [*LABELS, *METRICS, "alpha", "middle", "zeta"]
    assert (rows[0]["top1"], rows[0]["middle"], rows[1]["middle"], rows[1]["top5"]) == ("1.5", "", "3", "")


def test_columns_that_no_run_has_are_left_out(tmp_path):
    write_run(tmp_path, "f0", top5=91.0)
    rebuild_runs_csv(tmp_path)
    assert read(tmp_path)[0] == [*LABELS, "top1", "top5"]


def test_rows_are_sorted_by_method_then_bits_as_numbers(tmp_path):
    order = [
        ("f8", {"model": "deit_small"}),
        ("f1", {"allocator": "lampq"}),
        ("f5", {"weight_bits": 2.5}),
        *((name, {}) for name in sorted(("f6", "f7"), key=of)),
        ("f0", {"activation_bits": 8.0}),
        ("f3", {"weight_bits": 10.0}),
        ("f4", {"dataset": "shapes"}),
    ]
    for name, values in sorted(order):
        write_run(tmp_path, name, **values)
    rebuild_runs_csv(tmp_path)
    assert [row["fingerprint"] for row in read(tmp_path)[1]] == [of(name) for name, _ in order]


def test_numbers_are_kept_exactly(tmp_path):
    write_run(tmp_path, "f0", top1=100 / 3, bops=12345678901234567)
    rebuild_runs_csv(tmp_path)
    row = read(tmp_path)[1][0]
    assert float(row["top1"]) == 100 / 3 and int(row["bops"]) == 12345678901234567


@pytest.mark.parametrize("content", ["{", "[1, 2]", '{"top1": 1.0}', '"words"', "", None])
def test_a_broken_run_is_left_out_with_a_warning(tmp_path, caplog, content):
    write_run(tmp_path, "good")
    broken = write_run(tmp_path, "broken") / "metrics.json"
    if content is None:
        broken.write_bytes(b"\xff\xfe\x00")
    else:
        broken.write_text(content)
    with caplog.at_level(logging.WARNING, logger="lampq"):
        rebuild_runs_csv(tmp_path)
    assert [row["fingerprint"] for row in read(tmp_path)[1]] == [of("good")]
    assert len(caplog.records) == 1 and str(broken.parent) in caplog.text


def test_a_run_with_bits_that_are_no_number_is_left_out_with_a_warning(tmp_path, caplog):
    folder = write_run(tmp_path, "broken", weight_bits="three")
    rebuild_runs_csv(tmp_path)
    assert read(tmp_path)[1] == [] and folder.name in caplog.text


@pytest.mark.parametrize("file", ["metrics.json", "identity.json", "images.json"])
def test_a_file_that_changes_after_its_row_was_written_takes_the_row_away(tmp_path, file):
    folder = write_run(tmp_path, "good")
    for _ in range(2):
        rebuild_runs_csv(tmp_path)
        assert len(read(tmp_path)[1]) == 1
    text = (folder / file).read_text()
    (folder / file).write_text(text + " ")
    rebuild_runs_csv(tmp_path)
    assert read(tmp_path)[1] == []
    (folder / file).write_text(text)
    rebuild_runs_csv(tmp_path)
    assert len(read(tmp_path)[1]) == 1


def test_a_deleted_file_is_written_again_and_runs_in_order_are_not_read_as_a_whole(tmp_path, monkeypatch):
    write_run(tmp_path, "good")
    rebuild_runs_csv(tmp_path).unlink()
    monkeypatch.setattr("lampq.runs.tracking.csv.read_run", None)
    rebuild_runs_csv(tmp_path)
    assert len(read(tmp_path)[1]) == 1


def test_an_unfinished_run_has_no_row_and_gives_no_warning(tmp_path, caplog):
    write_run(tmp_path, "good")
    (tmp_path / "runs" / "unfinished").mkdir()
    (tmp_path / "runs" / "a file").write_text("")
    rebuild_runs_csv(tmp_path)
    assert len(read(tmp_path)[1]) == 1 and not caplog.records


def test_without_runs_there_is_a_header(tmp_path):
    rebuild_runs_csv(tmp_path / "results")
    assert read(tmp_path / "results") == (list(LABELS), [])


def test_a_removed_run_disappears_and_no_other_file_stays_beside_the_csv(tmp_path):
    write_run(tmp_path, "good")
    shutil.rmtree(write_run(tmp_path, "gone"))
    rebuild_runs_csv(tmp_path)
    assert [row["fingerprint"] for row in read(tmp_path)[1]] == [of("good")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "runs.csv"]
    assert not list(tmp_path.rglob("*.tmp"))


def start_writers(results, names, runs):
    """Processes that write runs and rebuild the file after each, let go at one time."""
    writers = []
    for name in names:
        command = [sys.executable, "-c", WRITER, str(results), name, str(runs)]
        writers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    return writers


def test_two_processes_at_once_lose_no_row(tmp_path):
    writers = start_writers(tmp_path, ("a", "b"), 30)
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    fingerprints = {row["fingerprint"] for row in read(tmp_path)[1]}
    assert fingerprints == {of(f"{name}{i}") for name in ("a", "b") for i in range(30)}


def test_reading_the_folders_waits_for_another_process(tmp_path):
    """What is finished while another process writes is in the file that is written after it."""
    (tmp_path / "runs").mkdir()
    with hold(tmp_path / "runs" / ".runs.csv.lock", "runs.csv"):
        (writer,) = start_writers(tmp_path, ("other",), 1)
        time.sleep(0.5)
        assert writer.poll() is None and not (tmp_path / "runs.csv").exists()
        write_run(tmp_path, "mine")
    assert writer.wait(timeout=30) == 0
    assert {row["fingerprint"] for row in read(tmp_path)[1]} == {of("mine"), of("other0")}
