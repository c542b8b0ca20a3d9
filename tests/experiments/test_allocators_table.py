"""Allocators beside each other: accuracy, gain over equal bits, and what the search cost."""

import csv

import pytest

from experiments.frame import frame
from experiments.report import TABLES
from lampq.launch.cells import FAILED, NOT_AVAILABLE
from tests.experiments import rows_of as stands

BASE = "model=deit_tiny bits=3"


def rows_of(results):
    (table,) = TABLES["allocators"](frame(results.path, ["allocators"]))
    return table, {
        (method, heading.rpartition("W")[2].replace("A", "/")): row
        for (heading, method), row in stands.rows_of(table).items()
    }


def test_a_row_has_its_gain_and_its_cost(results):
    results.measured("allocators", f"{BASE} method=adalog")  # 44 of 100 right
    results.measured(
        "allocators", f"{BASE} method=lampq", outcomes=(60, 20, 4, 16), evaluations=18, evaluation_images=250
    )
    table, rows = rows_of(results)
    assert rows["DeiT-T, full precision", ""]["top-1"] == "80.00 ± 4.02"
    lampq = rows["LampQ", "3/3"]
    assert lampq["top-1"] == "64.00 ± 4.82<sup>b</sup>" and lampq["gain"].startswith("+20.00 ± ")
    assert lampq["on D"] == "50.00 ± 1.56", "of 1,024 images"
    assert [lampq[name] for name in ("plans", "images a plan", "cost (s)")] == ["18", "250", "250"]
    assert (lampq["average bits"], lampq["packed (MB)"]) == ("2.97", "2.50")
    equal = rows["equal bits", "3/3"]
    assert {equal[name] for name in ("gain", "on D", "plans", "images a plan")} == {"–"}
    assert "plans scored on the first 250 of them in the search" in table.notes[1]


def test_rows_stand_in_one_order_at_each_target_whatever_was_run_first(results):
    for method in ("lampq", "random", "adalog", "somebody", "hawq_v2"):
        for bits in (4, 3):
            results.measured("allocators", f"model=deit_tiny bits={bits} method={method}")
    table, _ = rows_of(results)
    order = ["equal bits", "random bits", "HAWQ-V2", "LampQ", "somebody"]
    assert [row[0] for row in table.body[1:]] == ["DeiT-T, W3A3", *order, "DeiT-T, W4A4", *order]


def test_what_is_not_measured_is_named(results):
    results.cell("allocators", f"{BASE} method=clado", NOT_AVAILABLE, reason="method=clado does not exist")
    results.cell("allocators", f"{BASE} method=lampq", FAILED, reason="no card")
    table, rows = rows_of(results)
    assert rows["CLADO", "3/3"]["top-1"] == "not available" and rows["LampQ", "3/3"]["top-1"] == "failed"
    assert "Not available: `method=clado does not exist`." in table.remarks
    assert set(table.records.state) == {"not available", "failed"}


def test_several_seeds_are_a_mean_and_a_deviation(results):
    for seed, outcomes in enumerate([(40, 40, 0, 20), (40, 40, 4, 16), (44, 36, 4, 16)]):
        kept = {"outcomes": outcomes, "evaluations": 10 + seed, "sample_top1": 50.0 + seed}
        results.measured("allocators", f"{BASE} method=lampq seed={seed}", **kept)
        results.measured("allocators", f"{BASE} method=adalog seed={seed}", outcomes=(40, 40, 0, 20))
    table, rows = rows_of(results)
    lampq = rows["LampQ", "3/3"]
    assert lampq["top-1"].startswith("44.00 ± 4.00") and "3 seeds: mean and standard deviation" in table.notes
    assert [lampq[name] for name in ("gain", "plans", "on D")] == ["+4.00 ± 4.00", "10 to 12", "51.00 ± 1.00"]


def test_another_override_is_a_row_of_its_own_and_each_model_a_block(results):
    results.measured("allocators", f"{BASE} method=lampq")
    results.measured("allocators", f"{BASE} method=lampq lampq.gamma=8", outcomes=(50, 30, 0, 20))
    results.measured("allocators", "model=shapes_vit bits=3 method=lampq")
    table, rows = rows_of(results)
    assert rows["LampQ, gamma 8", "3/3"]["top-1"].startswith("50.00")
    assert [row[0] for row in table.body if "full" in row[0]] == [
        "DeiT-T, full precision",
        "shapes_vit, full precision",
    ]


def test_it_is_written_with_its_numbers(results):
    run = results.measured("allocators", f"{BASE} method=lampq", evaluations=18)
    table, _ = rows_of(results)
    table.write(results.path)
    (row,) = csv.DictReader((results.path / "allocators.csv").open())
    assert (row["method"], row["evaluations"], row["fingerprint"]) == ("LampQ", "18", run.name)
    assert float(row["sample_top1"]) == pytest.approx(50) and row["seconds_cold"] == "250.0"
    assert "LampQ & 44.00" in (results.path / "allocators.tex").read_text()


def test_without_any_cell_there_is_a_header(results):
    table, rows = rows_of(results)
    assert rows == {} and table.header == ["method", "top-1"]


def test_what_differs_in_a_row_is_told_in_words(results):
    results.measured("allocators", f"{BASE} method=lampq_measured allocator.measurements=1")
    results.measured("allocators", f"{BASE} method=lampq_measured allocator.measurements=3")
    results.measured("allocators", f"{BASE} method=lampq base_quantizer=adalog_short")
    told = {method for method, bits in rows_of(results)[1] if bits == "3/3"}
    assert told == {f"LampQ, {words}" for words in ("changes measured, once", "changes measured, 3 times")} | {
        "LampQ, AdaLog's short search"
    }


def test_two_runs_of_one_seed_are_no_two_seeds_and_the_later_one_stands(results):
    for day, root, outcomes in ((2, "b", (60, 20, 4, 16)), (1, "a", (40, 40, 4, 16))):
        where = {"started": f"2026-01-0{day}T00:00:00+00:00"}
        results.measured("allocators", f"{BASE} method=lampq dataset.root={root}", outcomes=outcomes, where=where)
    table, rows = rows_of(results)
    assert rows["LampQ", "3/3"]["top-1"].startswith("64.00 ± 4.82") and not any("seeds" in note for note in table.notes)
