"""Tables of methods with a setting and without it, their difference paired by image."""

import pytest

from experiments.frame import frame, plain
from experiments.report import TABLES
from tests.experiments.rows_of import rows_of

QDROP = "model=deit_tiny bits=3 method=qdrop"
ROTATED, AS_IT_COMES = f"{QDROP} transform=hadamard", f"{QDROP} transform=none"
SETTINGS = {
    "rotation": ("transform=none", "transform=hadamard", "as it comes", "rotated", "rotated − as it comes"),
    "out_of_domain": (
        *("dataset.calibration_root=null", "dataset.calibration_root=/coco", "own images", "other images"),
        "other − own images",
    ),
}
"""Experiment -> overrides without the setting and with it, what they are called, and their difference."""


def table_of(results, name="rotation"):
    (table,) = TABLES[name](frame(results.path, [name]))
    return table


def rows(table):
    return {name: row for (_, name), row in rows_of(table).items()}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_difference_is_paired_by_image(results, name):
    without, setting, plain_words, words, difference = SETTINGS[name]
    results.measured(name, f"{QDROP} {without}", outcomes=(40, 40, 4, 16))
    results.measured(name, f"{QDROP} {setting}", outcomes=(50, 30, 4, 16))
    table = table_of(results, name)
    found = rows(table)
    assert list(found) == ["DeiT-T, full precision", f"QDrop, {plain_words}", f"QDrop, {words}"]
    # 10 of 100 images more are right: sqrt(0.1 * 0.9 / 99).
    assert found[f"QDrop, {words}"][difference] == "+10.00 ± 3.02"
    assert found[f"QDrop, {plain_words}"][difference] == "–"
    assert [record.get("setting_difference") for record in plain(table.records)] == [None, pytest.approx(10)]


def test_each_of_several_folders_is_held_against_own_images(results):
    results.measured("out_of_domain", f"{QDROP} dataset.calibration_root=null", outcomes=(40, 40, 4, 16))
    results.measured("out_of_domain", f"{QDROP} dataset.calibration_root=/coco", outcomes=(50, 30, 4, 16))
    results.measured("out_of_domain", f"{QDROP} dataset.calibration_root=/places", outcomes=(30, 50, 4, 16))
    records = plain(table_of(results, "out_of_domain").records)
    assert sorted(r["setting_difference"] for r in records if r.get("setting_difference")) == pytest.approx([-10, 10])


@pytest.mark.parametrize(
    "other",
    [
        {"overrides": AS_IT_COMES.replace("qdrop", "rtn")},
        {"overrides": AS_IT_COMES.replace("bits=3", "bits=4")},
        {"overrides": AS_IT_COMES, "validation": "fewer"},
    ],
    ids=["another method", "other bits", "other images"],
)
def test_nothing_is_held_against_another_run(results, other):
    results.measured("rotation", other.pop("overrides"), **other)
    results.measured("rotation", ROTATED)
    assert "rotated − as it comes" not in table_of(results).header


def test_what_belongs_to_the_setting_makes_no_other_run(results):
    results.measured("rotation", AS_IT_COMES, outcomes=(40, 40, 4, 16))
    results.measured("rotation", f"{ROTATED} transform.residual=false", outcomes=(50, 30, 4, 16))
    assert "rotated − as it comes" in table_of(results).header


def test_a_footnote_tells_the_transform(results):
    results.measured("rotation", ROTATED, transform="hadamard")
    assert any("transform=hadamard" in note for note in table_of(results).notes)


def test_round_to_nearest_has_a_name(results):
    results.measured("rotation", ROTATED.replace("qdrop", "rtn"))
    assert "round to nearest, rotated" in rows(table_of(results))
