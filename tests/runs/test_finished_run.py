"""A finished run's folder: whatever does not agree is named, and nothing of it is used."""

import json
import os

import pytest

from lampq.runs.finished_run import FILES, DamagedRun, read_run, seal
from tests.experiments.results_folder import ResultsFolder


@pytest.fixture
def results(tmp_path):
    return ResultsFolder(tmp_path / "results")


@pytest.fixture
def folder(results):
    return results.run(sample_outcomes=(1, 0, 1))


def test_a_sealed_folder_is_read(folder):
    run = read_run(folder)
    assert run.metrics["fingerprint"] == run.fingerprint == folder.name
    assert len(run.outcomes[1]) == run.metrics["images"] and run.sample_outcomes == [1, 0, 1]
    assert run.plan.origin["allocator"] == "lampq" and run.precision_draws == {}


def damaged(folder, file):
    with pytest.raises(DamagedRun) as caught:
        read_run(folder)
    assert str(caught.value).startswith(f"{folder}: {file} ") and "\n" not in str(caught.value)
    return caught.value.reason


def test_one_digit_of_any_file_is_noticed(folder):
    for name in FILES:
        path = folder / name
        if not path.exists():
            continue
        before = path.read_bytes()
        path.write_bytes(before[:-2] + (b"7" if before[-2:-1] != b"7" else b"8") + before[-1:])
        assert damaged(folder, name) == "has changed since it was written"
        path.write_bytes(before)
    assert read_run(folder)


@pytest.mark.parametrize("name", ["metrics.json", "plan.json", "identity.json"])
def test_a_file_of_another_run_is_noticed(results, folder, name):
    other = results.run(allocator="uniform")
    (folder / name).write_bytes((other / name).read_bytes() + b" ")
    assert damaged(folder, name)


@pytest.mark.parametrize(("name", "reason"), [("metrics.json", "another run's"), ("identity.json", "another run's")])
def test_a_file_of_another_run_is_noticed_even_under_a_seal(results, folder, name, reason):
    (folder / name).write_bytes((results.run() / name).read_bytes())
    seal(folder)
    assert reason in damaged(folder, name)


@pytest.mark.parametrize(
    "content", [b"{}", b"[]", b"NaN", b"", b"\xff\xfe", b"[" * 100_000, b"3", b'{"weight_bits": "three"}']
)
def test_metrics_that_are_none_are_noticed_even_under_a_seal(folder, content):
    (folder / "metrics.json").write_bytes(content)
    seal(folder)
    assert damaged(folder, "metrics.json")


@pytest.mark.parametrize("name", ["metrics.json", "environment.json", "plan.json", "digests.json"])
def test_what_is_no_file_is_not_read(folder, tmp_path, name):
    path, elsewhere = folder / name, tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.mkdir()
    assert damaged(folder, name) == "is no file"
    path.rmdir()
    path.symlink_to(elsewhere)
    assert damaged(folder, name) == "is a link"
    elsewhere.unlink()
    assert damaged(folder, name) == "is a link"
    path.unlink()
    os.mkfifo(path)
    assert damaged(folder, name) == "is no file"
    path.unlink()
    assert "is missing" in damaged(folder, name)


def test_a_file_that_the_run_did_not_write_is_noticed(folder):
    (folder / "sensitivity.csv").write_text("unit,top1\n")
    assert damaged(folder, "sensitivity.csv") == "was added"


@pytest.mark.parametrize("content", ["[]", "{", '{"metrics.json": 3}'])
def test_digests_that_are_none_are_noticed(folder, content):
    (folder / "digests.json").write_text(content)
    with pytest.raises(DamagedRun):
        read_run(folder)


def test_half_written_files_beside_it_do_no_harm(folder):
    (folder / "metrics.json.123.tmp").write_text("{")
    assert json.loads((folder / "digests.json").read_text()).keys() == {f for f in FILES if (folder / f).is_file()}
    assert read_run(folder)


def test_a_run_made_before_there_were_digests_is_named_as_such(folder):
    (folder / "digests.json").unlink()
    assert "made before runs had digests" in damaged(folder, "digests.json")
