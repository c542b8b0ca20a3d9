"""The table of rotation: each method with it and without, their difference paired by image."""

import pytest

from experiments.frame import frame, plain
from experiments.report import TABLES
from tests.experiments.rows_of import rows_of

QDROP = "model=deit_tiny bits=3 method=qdrop"
ROTATED, AS_IT_COMES = f"{QDROP} transform=hadamard", f"{QDROP} transform=none"


def table_of(results):
    (table,) = TABLES["rotation"](frame(results.path, ["rotation"]))
    return table


def rows(table):
    return {name: row for (_, name), row in rows_of(table).items()}


def test_the_difference_is_paired_by_image(results):
    results.measured("rotation", AS_IT_COMES, outcomes=(40, 40, 4, 16))
    results.measured("rotation", ROTATED, outcomes=(50, 30, 4, 16), transform="hadamard")
    table = table_of(results)
    found = rows(table)
    assert list(found) == ["DeiT-T, full precision", "QDrop, as it comes", "QDrop, rotated"]
    # 10 of 100 images more are right: sqrt(0.1 * 0.9 / 99).
    assert found["QDrop, rotated"]["rotated − as it comes"] == "+10.00 ± 3.02"
    assert found["QDrop, as it comes"]["rotated − as it comes"] == "–"
    assert [record.get("rotation_difference") for record in plain(table.records)] == [None, pytest.approx(10)]
    assert any("transform=hadamard" in note for note in table.notes)


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
    results.measured("rotation", ROTATED, transform="hadamard")
    assert "rotated − as it comes" not in table_of(results).header


def test_round_to_nearest_has_a_name(results):
    results.measured("rotation", ROTATED.replace("qdrop", "rtn"), transform="hadamard")
    assert "round to nearest, rotated" in rows(table_of(results))
