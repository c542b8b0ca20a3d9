"""What the paper printed, and that the experiments ask for just that."""

import itertools

import pytest
import yaml

from experiments import paper
from lampq.launch.command_line import config_folder

ROWS = {
    3: lambda: paper.accuracy_rows(3, paper.METHODS),
    4: paper.detection_rows,
    5: lambda: paper.accuracy_rows(5, paper.ZERO_SHOT_METHODS),
    6: paper.ablation_rows,
    10: lambda: paper.accuracy_rows(10, paper.METHODS),
    "authors_code": lambda: paper.accuracy_rows("authors_code", paper.AUTHORS_CODE),
    "glf_q": lambda: paper.accuracy_rows("glf_q", paper.GLF_Q),
}


def cells_of(name):
    """(method, bits, model) of every cell that a table's experiment plans."""
    file = f"table{name}.yaml" if isinstance(name, int) else f"{name}.yaml"
    experiment = yaml.safe_load((config_folder() / "experiment" / file).read_text())
    params = {k: str(v).split(",") for k, v in experiment["hydra"]["sweeper"]["params"].items()}
    without = experiment["experiment"].get("without", [])
    for values in itertools.product(*params.values()):
        cell = dict(zip(params, values, strict=True))
        if any(cell["method"] in w["method"] and cell["bits"] == str(w["bits"]) for w in without):
            continue
        weight = cell.get("weight_bits", cell.get("bits"))
        yield cell["method"], f"{weight}/{cell.get('activation_bits', cell.get('bits'))}", cell["model"]


@pytest.mark.parametrize("name", ROWS)
def test_an_experiment_has_exactly_the_cells_that_are_printed(name):
    printed = {(row.method, row.bits, model) for row in ROWS[name]() for model in row.values}
    assert set(cells_of(name)) == printed


@pytest.mark.parametrize(
    ("name", "full_precision"), [(3, 1), (4, 1), (5, 1), (10, 0), ("authors_code", 1), ("glf_q", 1)]
)
def test_every_printed_row_becomes_a_row_in_its_order(name, full_precision):
    printed = [(row["method"], row["w/a"]) for row in paper.table(name)][full_precision:]
    assert [(row.label, row.printed_bits) for row in ROWS[name]()] == printed


def test_every_printed_row_of_table_6_is_measured_under_its_own_label():
    labels = [row.label for row in paper.ablation_rows()]
    assert len(set(labels)) == len(labels) == 6
    for printed in paper.table(6):
        assert any(label.startswith(printed["method"]) for label in labels), printed["method"]


def test_numbers_are_as_printed():
    glf_q = {(row.method, row.bits): row.values for row in ROWS["glf_q"]()}
    assert glf_q["glf_q", "3/3"]["deit_tiny"] == 56.48 and glf_q["glf_q_fima", "3/3"]["swin_small"] == 77.30
    by_place = {(row.method, row.bits): row.values for row in ROWS[3]()}
    assert by_place["lampq", "3/3"]["deit_tiny"] == 37.54 and by_place["ptq4vit", "4/4"]["vit_base"] == 30.69
    assert paper.full_precision(3)["deit_tiny"] == 72.13 and paper.full_precision(5)["deit_tiny"] == 72.21
    assert {row.method: row.values["deit_small"] for row in ROWS[10]()}["vt_ptq"] == "40.2 h"
    assert paper.detection_full_precision()["cascade_mask_rcnn_swin_small"] == "51.9 / 45.0"


def test_the_printed_averages_are_those_of_the_printed_rows():
    """A mistyped number would show here; the paper cuts some averages off (76.0757 is 76.07), so a digit is allowed."""
    for row, printed in zip(ROWS[3](), paper.table(3)[1:], strict=True):
        assert abs(sum(row.values.values()) / 7 - float(printed["Average"])) < 0.01, (row.method, row.bits)
