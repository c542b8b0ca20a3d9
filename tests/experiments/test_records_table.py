"""Records: the best of ours at each budget, beside the best that is published, and what was tried in vain."""

import pytest

from experiments import publish
from experiments.frame import frame, plain
from experiments.records_table import records_tables
from experiments.report import report

ADALOG = "model=deit_tiny bits=3 method=adalog"
LAMPQ = "model=deit_tiny bits=3 method=lampq"


def tables_of(results):
    return records_tables(frame(results.path))


def test_the_best_at_each_budget_stands_beside_what_is_published(results):
    results.measured("table3", ADALOG)  # 44 of 100 right, 80 in full precision
    results.measured("table3", f"{LAMPQ} lampq.gamma=2", outcomes=(45, 35, 5, 15), budget_unit="average_bits")
    results.measured("allocators", LAMPQ, outcomes=(42, 38, 4, 16), budget_unit="average_bits")
    results.measured("allocators", f"{LAMPQ} budget=bops", outcomes=(41, 39, 4, 16), budget_unit="bops")
    best, _ = tables_of(results)
    budgets = [(row[2], row[3], row[4].partition(" ")[0], row[5]) for row in best.body]
    assert budgets == [
        ("equal bits", "AdaLog", "44.00", "55.0"),
        ("average bits", "LampQ, gamma 2", "50.00", "62.5"),
        ("bit operations", "LampQ, equal bit operations", "45.00", "56.2"),
    ]
    (published,) = {tuple(row[7:]) for row in best.body}
    assert published == ("GLF-Q (arXiv 2609.34564, table 1)", "56.48", f"{100 * 56.48 / 72.21:.1f}")
    assert all(found["published_top1"] == 56.48 for found in plain(best.records)) and len(best.sources) == 3


def test_seeds_of_one_method_are_one_entry_with_their_deviation(results):
    for seed, outcomes in enumerate([(40, 40, 4, 16), (44, 36, 4, 16)]):
        results.measured("table3", f"{ADALOG} seed={seed}", outcomes=outcomes)
    results.measured("table3", "model=deit_tiny bits=4 method=adalog", weight_bits=4.0, activation_bits=4.0)
    best, _ = tables_of(results)
    assert [(row[1], row[4]) for row in best.body] == [("W3A3", "46.00 ± 2.83"), ("W4A4", "44.00 ± 4.99")]
    assert plain(best.records)[0]["seeds"] == 2


def test_runs_of_other_settings_are_no_seeds_of_each_other(results):
    for experiment, bits in (("table3", 3), ("pareto", 4)):
        results.measured(experiment, ADALOG)
        results.measured(experiment, LAMPQ, outcomes=(39, 41, 4, 16), budget={"fixed_site_bits": [bits, bits]})
    _, vain = tables_of(results)
    assert sorted(row[3] for row in vain.body) == ["LampQ", "LampQ, all else at 4 bits"]
    assert [found["seeds"] for found in plain(vain.records)] == [1, 1]


def test_a_run_that_several_cells_led_to_is_one_entry(results):
    results.measured("table3", ADALOG)
    folder = results.measured("table3", LAMPQ, outcomes=(39, 41, 4, 16))
    results.cell("readings", f"{LAMPQ} reading=as_default", run=folder.name)
    _, vain = tables_of(results)
    assert [row[3] for row in vain.body] == ["LampQ"]


def test_a_d_that_began_with_the_calibration_images_is_told(results):
    results.measured("table3", ADALOG)
    sample = {"sample": {"images": 500, "content": "d", "preprocessing": {}}}
    results.measured("table3", LAMPQ, outcomes=(39, 41, 4, 16), image_sets=sample)
    _, vain = tables_of(results)
    assert [row[3] for row in vain.body] == ["LampQ, D began with the calibration images"]


def test_what_gains_less_than_its_error_over_equal_bits_was_tried_in_vain(results):
    results.measured("table3", ADALOG)
    results.measured("table3", LAMPQ, outcomes=(60, 20, 10, 10))
    results.measured("table3", f"{LAMPQ} lampq.gamma=2", outcomes=(39, 41, 4, 16))
    _, vain = tables_of(results)
    (row,) = vain.body
    assert row[3] == "LampQ, gamma 2" and row[5].startswith("−1.00 ± ")
    assert plain(vain.records)[0]["gain"] == pytest.approx(-1)


def test_other_models_and_images_have_no_records(results):
    results.measured("table3", "model=shapes_vit bits=3 method=adalog")
    results.measured("table5", "model=deit_tiny bits=3 method=adalog", dataset="psaq")
    assert [table.body for table in tables_of(results)] == [[], []]


def test_report_writes_them_beside_the_page_and_publish_with_all_else(results):
    results.measured("table3", ADALOG)
    report(results.path)
    assert "Records: the best of ours" in (results.path / "records.md").read_text()
    publish.publish(["table3", "records"], results.path)
    assert (results.path / "published" / "records.md").read_text().count("AdaLog") >= 1
