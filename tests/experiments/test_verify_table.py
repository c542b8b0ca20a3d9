"""Runs whose models were run in several runtimes, side by side."""

import pytest

from experiments.__main__ import main
from experiments.publish import publish
from experiments.report import names, report
from lampq.errors import LampQError
from lampq.runs.finished_run import VERIFIED
from lampq.storage.atomic_write import write_rows

RUNTIMES = {"full precision, PyTorch": 22_900_000, "simulation": None, "onnxruntime": 2_600_000}


def verified(results, **changes):
    """A run with the file that `verify` writes."""
    run = results.measured("table3", "model=deit_tiny bits=3 method=lampq", **changes)
    figures = {"images": 800, "top1": 44.25, "top1_error": 1.76, "agreement": 99.75, "difference": 0.5}
    where = {"command": "-m experiments verify /home/someone/results/runs/X", "commit": "abcdef", "device": "cpu"}
    where |= {"processor": "an abacus", "threads": 2, "started": "2026-01-02", "packages": "torch=2.9"}
    rows = [
        {"runtime": name, **figures, "codes_differ": None, "bytes": size, "ms_per_image": 12.345, **where}
        for name, size in RUNTIMES.items()
    ]
    write_rows(run / VERIFIED, rows)
    (run / "model").mkdir()
    (run / "model" / "model.safetensors").write_text("weights")
    return run


def test_a_block_a_run_and_a_row_a_runtime(results):
    run = verified(results)
    results.measured("table3", "model=deit_tiny bits=4 method=lampq")  # was not verified
    report(results.path, ["verify"])
    page = (results.path / "tables" / "verify.md").read_text()
    assert "**DeiT-T, adalog, lampq, W3A3: packed 2.50 MB, full precision 22.90 MB**" in page
    assert "| onnxruntime | 800 | 44.25 ± 1.76 | 99.75 | – | 5.00e-01 | 2,600,000 | 12.35 |" in page
    assert page.count("| 800 |") == len(RUNTIMES) and run.name in page
    records = (results.path / "tables" / "verify.csv").read_text().splitlines()
    assert len(records) == 1 + len(RUNTIMES) and "2500000,22900000,onnxruntime" in records[-1]
    assert "python -m experiments verify RUN" in (results.path / "report.html").read_text()


def test_no_table_without_a_verified_run(results):
    results.measured("table3", "model=deit_tiny bits=3 method=lampq")
    report(results.path)
    assert "verify" in names() and not (results.path / "tables" / "verify.csv").exists()
    with pytest.raises(LampQError, match="run python -m experiments verify RUN"):
        publish(["verify"], results.path)


@pytest.mark.parametrize("name", ["table3", "verify"])
def test_the_file_is_published_with_its_run_and_the_weights_are_not(results, name):
    run = verified(results)
    publish([name], results.path)
    copied = results.path / "published" / "runs" / run.name
    text = (copied / VERIFIED).read_text()
    assert "44.25" in text and "/home/" not in text
    assert not (copied / "model").exists()
    assert "44.25" in (results.path / "published" / "tables" / "verify.md").read_text()


def test_a_damaged_run_or_file_is_named_once(results, capsys):
    verified(results)
    (verified(results, seed=1) / "metrics.json").write_text("{}")
    assert main(["report", "--results", str(results.path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "metrics.json has changed" in line
    torn = verified(results, seed=2)
    (torn / VERIFIED).write_text("runtime\n")
    assert main(["report", "--results", str(results.path)]) == 1
    assert "left out: verify: cannot be put together" in capsys.readouterr().err
