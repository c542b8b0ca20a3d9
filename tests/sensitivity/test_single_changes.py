"""What single changes do in the quantized model, and what was foretold of them."""

from dataclasses import replace

import pytest

from lampq.errors import LampQError
from lampq.sensitivity.context import equal_bits, layer_changes, predicted
from lampq.sensitivity.expected_error import expected_ratios
from lampq.sensitivity.output_fisher import OutputFisher
from lampq.sensitivity.reconstruction_error import errors_at
from lampq.sensitivity.single_changes import SWAPS, SingleChanges
from lampq.tasks.score import paired_change
from tests.allocation.budgets import budget
from tests.small_models import search_over, vit_adapter


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    search = search_over(vit_adapter(), tmp_path_factory.mktemp("store"))
    return search, SingleChanges().measure(search, budget())


def test_every_layer_has_one_bit_more_and_one_bit_less(measured):
    search, rows = measured
    assert [(r["name"], r["bits_before"], r["bits"]) for r in rows] == [
        (site.name, 3, bits) for site in search.layers for bits in (2, 4)
    ]
    (least,) = {r["bits"] for r in SingleChanges(["fisher"]).measure(search, budget(3, (3, 4)))}
    assert least == 4, "3 are the fewest"


def test_the_truth_is_the_paired_difference_of_scores_on_d(measured):
    search, rows = measured
    plan = equal_bits(search, budget())
    for row in rows[::5]:
        other = budget().plan(search.adapter.sites, {**plan.layer_bits(), row["name"]: row["bits"]})
        expected = paired_change(search.evaluator.score(other), search.evaluator.score(plan))
        assert (row["loss_increase"], row["loss_increase_standard_error"]) == pytest.approx(expected, rel=1e-12)


def test_each_prediction_is_the_metrics_score_at_the_new_bits_less_that_at_the_old(measured):
    search, rows = measured
    plan, target = equal_bits(search, budget()), budget()
    changes = layer_changes(search, target, plan)
    alone, there = OutputFisher().scores(search, target), OutputFisher().scores(search, target, plan)
    errors = errors_at(plan, search, target, search.scored_model(), {s: [target.bits_at(4)] for s in search.layers})
    ratios = expected_ratios()
    for row in rows:
        name, b = row["name"], row["bits"]
        assert row["context"] == pytest.approx(predicted(changes[name][b]), rel=1e-9)
        assert row["output_fisher"] == pytest.approx(alone[name][b] - alone[name][3], rel=1e-9)
        assert row["output_fisher_at_the_plan"] == pytest.approx(there[name][b] - there[name][3], rel=1e-9)
        now, more = errors[name]
        if b == 4:
            assert row["reconstruction"] == pytest.approx(more - now, rel=1e-9)
            assert row[SWAPS] == pytest.approx(-now * (1 - 1 / ratios[4]), rel=1e-9)
        else:
            assert row[SWAPS] == pytest.approx(now * (ratios[3] - 1), rel=1e-9)


def test_every_option_changes_what_is_measured(measured):
    search, rows = measured
    few = SingleChanges(["context"], change_images=16)
    found = few.measure(search, budget())
    assert list(found[0])[8:] == ["context"] and found[0]["loss_increase"] != rows[0]["loss_increase"]
    assert few.metrics(found, search) == {"sample_images": 16, "changes": len(rows)}
    assert few.settings() != SingleChanges().settings()


def test_nothing_is_measured_twice_and_pinned_layers_stay(measured):
    search, rows = measured
    before = search.evaluator.evaluations
    assert SingleChanges().measure(search, budget()) == rows and search.evaluator.evaluations == before
    pinned = replace(budget(), pins=(("block 0", 6),))
    assert {r["block"] for r in SingleChanges(["fisher"]).measure(search, pinned)} == {1, 2}
    inside = replace(budget(), pins=(("block 0", 3),))
    assert {r["block"] for r in SingleChanges(["fisher"]).measure(search, inside)} == {1, 2}


def test_where_nothing_can_be_changed_it_is_one_line(measured):
    search, _ = measured
    with pytest.raises(LampQError, match=r"bit_set.bits=\[2, 4\]: sensitivity=changes starts from equal bits"):
        SingleChanges().measure(search, budget(3, (2, 4)))
    with pytest.raises(LampQError, match="pins: keep every layer"):
        SingleChanges().measure(search, replace(budget(), pins=(("blocks.*", 3),)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"predicted_by": []}, r"sensitivity.predicted_by=\[\]: must be a list of metrics"),
        ({"predicted_by": "context"}, "sensitivity.predicted_by=context: must be a list"),
        ({"predicted_by": ["contxt"]}, "sensitivity.predicted_by=contxt: .*context"),
        ({"change_images": 0}, "sensitivity.change_images=0: "),
    ],
)
def test_a_mistake_is_one_line(given, message):
    with pytest.raises(LampQError, match=message):
        SingleChanges(**given)
