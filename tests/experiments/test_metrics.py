"""Metrics beside each other and beside what layers cost alone."""

import csv
from dataclasses import replace

import pytest

from experiments.frame import frame
from experiments.metrics import gathered, metrics_of, tables
from lampq.launch.cells import NOT_AVAILABLE
from tests.experiments.results_folder import components, scored_plan

BASE = "model=deit_tiny bits=3"
LAYERS = {"layers": ("qkv", "proj", "fc1", "fc2")}


def by_bits(plan, allocator, values, **origin):
    """A plan whose origin has scores by layer and bits: the value at 2 bits, a quarter of it at 4."""
    scores = {name: {"2": value, "4": value / 4} for name, value in values.items()}
    return replace(plan, origin={"allocator": allocator, "settings": {}, "scores": scores, **origin})


def order(rising=True):
    names = [s.name for s in scored_plan().sites if s.allocated]
    return {name: float(place + 1 if rising else 100 - place) for place, name in enumerate(names)}


@pytest.fixture
def measured_layers(results):
    """LampQ's Omega falls from layer to layer, the loss increase rises, another allocator's scores rise as well."""
    rows = components(LAYERS, bits=2)
    for place, row in enumerate(rows[1:]):
        row |= {"loss_increase": 0.1 * (place + 1), "loss_increase_standard_error": 0.15}
    results.sensitivity("metrics", f"{BASE} method=single_layers", rows, allocator="single_components")
    results.measured("metrics", f"{BASE} method=lampq", plan=scored_plan())
    plan = by_bits(scored_plan(), "output_fisher", order())
    results.measured("metrics", f"{BASE} method=output_fisher", plan=plan)
    return results


def test_a_plan_tells_its_traces_and_its_scores():
    plan = scored_plan()
    found = {metric.name: metric.values for metric in metrics_of(plan, "LampQ", [2])}
    assert found == {
        "Fisher trace": plan.origin["fisher_traces"],
        "LampQ: Ω": {n: s for n, s in found["LampQ: Ω"].items()},
    }
    assert found["LampQ: Ω"] == {s.name: s.score for s in plan.sites if s.allocated}
    plan = by_bits(plan, "hawq_v2", order(), hessian_traces=order(rising=False))
    found = {metric.name: metric.values for metric in metrics_of(plan, "HAWQ-V2", [1, 2])}
    assert found == {"Hessian trace": order(rising=False), "HAWQ-V2 at 2 bits": order()}, "at 1 bit nothing was scored"
    plan = by_bits(plan, "mix_qvit", order(), importance=order())
    assert [metric.name for metric in metrics_of(plan, "Mix-QViT", [2])] == ["relevance", "Mix-QViT at 2 bits"]
    assert metrics_of(replace(plan, origin={"allocator": "random"}), "random bits", [2]) == []


def test_the_scores_of_a_module_are_its_layers(results):
    plan = scored_plan()
    omega = {f"{b} {m}": {"2": 10.0 * b + (m == "MLP"), "4": 0.0} for b in (0, 1) for m in ("MSA", "MLP")}
    plan = replace(plan, origin={"allocator": "vt_ptq", "settings": {}, "omega": omega})
    ((metric),) = metrics_of(plan, "VT-PTQ", [2])
    assert metric.values["blocks.1.qkv"] == metric.values["blocks.1.proj"] == 10 and metric.values["blocks.1.fc2"] == 11


def test_metrics_are_ranked_against_what_layers_cost_alone(measured_layers):
    against_costs, each_other, _ = tables(frame(measured_layers.path, ["metrics"]))
    assert against_costs.header == ["metric", "measured", "all layers (8)", "qkv (2)", "proj (2)", "fc1 (2)", "fc2 (2)"]
    rows = {row[0]: row[1:] for row in against_costs.body}
    assert rows["output Fisher at 2 bits"] == ["loss increase at 2 bits", *["+1.00"] * 5]
    assert rows["LampQ: Ω"] == ["loss increase at 2 bits", *["−1.00"] * 5]
    pairs = {row[0]: dict(zip(each_other.header[1:], row[1:], strict=True)) for row in each_other.body}
    assert pairs["Fisher trace"]["LampQ: Ω"] == "+1.00" and pairs["LampQ: Ω"]["output Fisher at 2 bits"] == "−1.00"
    assert any("2 of 8 layers are within two standard errors of zero" in remark for remark in against_costs.remarks)
    assert all(run in "".join(against_costs.sources) for run in ("number=1", "number=2", "number=3"))


def test_correlations_within_each_type_are_in_the_csv(measured_layers):
    for table in tables(frame(measured_layers.path, ["metrics"])):
        table.write(measured_layers.path)
    rows = list(csv.DictReader((measured_layers.path / "metrics_pairs.csv").open()))
    assert len(rows) == 3 * 5, "three pairs, all layers and four types"
    assert {(r["layers"], r["count"]) for r in rows} == {("all layers", "8"), *((t, "2") for t in LAYERS["layers"])}


def test_predictions_are_ranked_against_single_changes_of_either_kind(results):
    rows = []
    for place, (bits, foretold) in enumerate([(4, 3.0), (2, 1.0), (4, 2.0), (2, 2.0), (4, 1.0), (2, 3.0)]):
        row = {"unit": "changes", "name": f"{place}", "type": "fc1", "block": place, "bits_before": 3, "bits": bits}
        rows.append({**row, "loss_increase": place - 2.0, "loss_increase_standard_error": 0.6, "context": foretold})
    results.sensitivity("metrics", f"{BASE} method=single_changes", rows, allocator="single_changes")
    (changes,) = tables(frame(results.path, ["metrics"]))  # no table of metrics that nobody measured
    assert [row[-2:] for row in changes.body] == [["−1.00", "+1.00"]]
    assert any("3 of 6 changes are within two standard errors of 0" in remark for remark in changes.remarks)
    assert "number=1" in "".join(changes.sources)


def test_without_single_layers_there_are_metrics_and_a_word(results):
    results.measured("metrics", f"{BASE} method=lampq", plan=scored_plan())
    results.cell("metrics", f"{BASE} method=mix_qvit", NOT_AVAILABLE, reason="method=mix_qvit does not exist")
    against_costs, each_other, _ = tables(frame(results.path, ["metrics"]))
    assert against_costs.body == [] and len(each_other.body) == 2
    assert any("not measured" in remark for remark in against_costs.remarks)
    assert "Not available: `method=mix_qvit does not exist`." in each_other.remarks


def test_what_holds_the_measurement_itself_is_named(measured_layers):
    circular = "Mix-QViT's scores contain this very measurement"
    assert not any(circular in remark for remark in tables(frame(measured_layers.path, ["metrics"]))[0].remarks)
    plan = by_bits(scored_plan(), "mix_qvit", order())
    measured_layers.measured("metrics", f"{BASE} method=mix_qvit", plan=plan)
    assert any(circular in remark for remark in tables(frame(measured_layers.path, ["metrics"]))[0].remarks)


def test_nothing_at_all_is_no_obstacle(results):
    assert gathered(frame(results.path, ["metrics"])) is None
    assert [table.body for table in tables(frame(results.path, ["metrics"]))] == [[]]


def test_a_measurement_at_other_bits_is_a_row_more_and_scores_are_taken_there(measured_layers):
    rows = components(LAYERS, bits=4)
    overrides = f"{BASE} method=single_layers sensitivity.bits=4"
    measured_layers.sensitivity("metrics", overrides, rows, allocator="single_components")
    against_costs, *_ = tables(frame(measured_layers.path, ["metrics"]))
    assert {row[1] for row in against_costs.body} == {"loss increase at 2 bits", "loss increase at 4 bits"}
    assert "output Fisher at 4 bits" in {row[0] for row in against_costs.body}
