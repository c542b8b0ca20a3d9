"""Everything measured as one DataFrame."""

import importlib.util

import pandas as pd
import pytest

from experiments.__main__ import main
from experiments.frame import frame, plain, tidy, widest, with_gain
from lampq.launch.cells import FAILED, PLANNED

ADALOG = "model=deit_tiny bits=3 method=adalog"
LAMPQ = "model=deit_tiny bits=3 method=lampq"


def test_a_row_is_a_cell_or_a_run_of_no_cell_and_every_column_has_a_type(results):
    run = results.measured("table3", ADALOG)
    results.cell("table6", f"{LAMPQ} lampq.gamma=2", PLANNED)
    results.cell("table6", LAMPQ, FAILED, reason="no card")
    alone = results.run(model="deit_small", evaluations=None)
    rows = frame(results.path)
    assert rows.state.tolist() == ["done", "missing", "failed", "done"]
    assert rows.experiment.fillna("none").tolist() == ["table3", "table6", "table6", "none"]
    assert rows.fingerprint.dropna().tolist() == [run.name, alone.name] and rows.reason[2] == "no card"
    assert rows.variation.tolist() == ["", "lampq.gamma=2", "", ""] and rows.bits.tolist() == ["3/3"] * 4
    kinds = rows.dtypes.astype(str)
    assert (kinds.top1, kinds.images, kinds.evaluations, kinds.model) == ("Float64", "Int64", "Int64", "string")
    assert frame(results.path, ["table3"]).fingerprint.tolist() == [run.name]


def test_whole_numbers_stay_whole_beside_missing_ones():
    rows = tidy([{"a": 12345678901234567, "b": 0.1 + 0.2}, {"c": "x"}])
    assert rows.to_csv(index=False) == "a,b,c\n12345678901234567,0.30000000000000004,\n,,x\n"
    assert plain(rows)[1] == {"a": None, "b": None, "c": "x"}


def test_without_anything_measured_every_column_is_there(results):
    results.path.mkdir()
    rows = frame(results.path)
    assert rows.empty and widest(with_gain(rows), ["model", "bits"]).empty
    assert {"experiment", "state", "top1", "seconds_cold", "kernels", "run"} <= set(rows)


def test_gains_are_over_equal_bits_of_the_same_experiment(results):
    for experiment in ("table3", "allocators"):
        results.measured(experiment, LAMPQ, outcomes=(60, 20, 4, 16))
    results.measured("table3", ADALOG)
    rows = with_gain(frame(results.path))
    gains = {row.experiment: row.uniform_difference for row in rows[rows.method == "lampq"].itertuples()}
    assert gains["table3"] == pytest.approx(20) and pd.isna(gains["allocators"])


def test_the_command_writes_what_pandas_reads_and_says_what_it_wrote(results, capsys, monkeypatch):
    results.measured("table3", ADALOG)
    results.measured("table3", LAMPQ, outcomes=(60, 20, 4, 16))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else found(name))
    assert main(["frame", "--results", str(results.path)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    written = pd.read_csv(results.path / "frame.csv")
    assert first == f"{results.path / 'frame.csv'}: 2 rows, {len(written.columns)} columns"
    assert second.endswith("frame.parquet: not written; Parquet needs pyarrow (pip install pyarrow)")
    assert written.top1.tolist() == [44, 64] and written.uniform_difference[1] == pytest.approx(20)
    assert not {"cell", "run", "asked"} & set(written)


def test_a_damaged_run_is_named_and_the_exit_status_says_so(results, capsys):
    run, alone = results.measured("table3", ADALOG), results.run()
    for folder in (run, alone):
        (folder / "metrics.json").write_text("{}")
    assert main(["frame", "--results", str(results.path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("left out: ") for line in lines)
    assert pd.read_csv(results.path / "frame.csv").state.tolist() == ["damaged", "damaged"]
