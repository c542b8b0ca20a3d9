"""Why each layer got its bits, in words that follow from the plan's own numbers."""

import csv
from dataclasses import replace

import pytest

from lampq.allocation.stored_scores import stored_scores
from lampq.report.explanation import WIDTH, explanation, reasons
from tests.experiments.results_folder import scored_plan
from tests.report.plans import example_plan
from tests.report.test_bit_allocation import COSTS

UP, DOWN = "blocks.1.fc2", "blocks.0.qkv"


def swap(up, down, accuracy, accepted, **before):
    return {
        "up": up,
        "down": down,
        "gain": 1.0,
        "cost": 0.5,
        "accuracy": accuracy,
        "loss": 1.0,
        "accepted": accepted,
    } | before


def told(plan, tmp_path, csv_file=None):
    return explanation(plan, csv=csv_file)


def line_of(text, layer):
    (line,) = [line for line in text.splitlines() if line.startswith(f"{layer} ")]
    return line


def test_costs_are_the_allocators_own_in_all_and_for_each_weight_bit():
    plan = scored_plan()  # gamma 2, Omega 32, 16, 8, ... layer by layer
    found = {reason.site.name: reason for reason in reasons(plan, stored_scores(plan))}
    assert list(found) == [s.name for s in plan.sites if s.allocated]
    fc1 = found["blocks.0.fc1"]
    bits, weights = fc1.site.weight_bits, fc1.site.parameters
    assert fc1.score == 8 and bits in (3, 4)
    assert fc1.less.bits == bits - 1 and fc1.less.change == pytest.approx(8 * (2.0 ** (1 - bits) - 2.0**-bits))
    assert fc1.more.bits == bits + 1 and fc1.more.change == pytest.approx(8 * (2.0**-bits - 2.0 ** (-1 - bits)))
    assert fc1.less.per_bit == pytest.approx(fc1.less.change / weights)


def test_each_layer_is_told_where_it_stands_with_the_price():
    plan = scored_plan(blocks=3)
    scores = stored_scores(plan)
    price, seen = scores.price(), set()
    for reason in reasons(plan, scores):
        seen.add(reason.why)
        if reason.more is not None and reason.more.per_bit > price:
            assert reason.why == "one more would pay, no room"
        elif reason.less is not None and reason.less.per_bit < price:
            assert reason.why == "one less would pay, room left"
        elif reason.less is None:
            assert reason.why == "the fewest: one more does not pay" and reason.site.weight_bits == 2
        elif reason.more is None:
            assert reason.why == "the most: the last one pays" and reason.site.weight_bits == 5
        else:
            assert reason.why == "the last one pays, one more does not"
    assert len(seen) >= 3


def test_the_text_has_the_price_as_a_header_and_a_line_a_layer_within_its_width(tmp_path):
    plan = scored_plan(blocks=12)
    text = told(plan, tmp_path)
    assert f"price of the budget: {stored_scores(plan).price():.3e} a weight bit" in text
    assert "gamma^-B Omega_i, gamma 2" in text and "target 3, bit set [2, 3, 4, 5]" in text
    assert len([line for line in text.splitlines() if line.startswith("blocks.")]) == 48
    assert all(len(line) <= WIDTH == 120 for line in text.splitlines())
    header, first = next(line for line in text.splitlines() if line.startswith("layer ")), line_of(text, "blocks.0.qkv")
    assert header.index("why") == first.index("the"), "columns are aligned"


def test_swaps_are_told_with_the_accuracy_before_and_after(tmp_path):
    plan = scored_plan()
    before = plan.layer_bits()
    swaps = [
        swap(UP, DOWN, 0.5, True, accuracy_before=0.4),
        swap("blocks.1.qkv", UP, 0.45, False, accuracy_before=0.5),
    ]
    bits = {UP: before[UP] + 1, DOWN: before[DOWN] - 1}
    after = plan.with_bits({name: (value, value) for name, value in bits.items()})
    text = told(replace(after, origin=plan.origin | {"swaps": swaps}), tmp_path)
    assert f"{before[UP]} at first, updated +1 (-2)" in line_of(text, UP)
    assert f"{before[DOWN]} at first, updated -1" in line_of(text, DOWN)
    assert line_of(text, "blocks.1.qkv").endswith("(+2)")
    first, second = text.splitlines()[-2:]
    assert UP in first and DOWN in first and first.endswith("40.00 ->  50.00 %  kept")
    assert second.endswith("50.00 ->  45.00 %  refused")
    assert "swaps of the update (top-1 on D, before and after):" in text
    detector = replace(after, origin=plan.origin | {"swaps": swaps, "judged": "ap"})
    assert "swaps of the update (AP of each image on D, before and after):" in told(detector, tmp_path)
    trained = replace(after, origin=plan.origin | {"scored_with": "block_bank"})
    assert "plans were scored with: block_bank (base_quantizer.search)\n" in told(trained, tmp_path)
    trained.origin["search_steps"] = 50
    assert "(base_quantizer.search), 50 steps a block (base_quantizer.search_steps)" in told(trained, tmp_path)


def test_a_bit_that_was_only_added_is_told_without_a_layer_that_lost_one(tmp_path):
    text = told(scored_plan(swaps=[swap(UP, None, 0.5, True), swap(UP, DOWN, 0.4, False)]), tmp_path)
    added, swapped = text.splitlines()[-2:]
    assert UP in added and " - " not in added and added.endswith("kept") and len(added) + 3 == len(swapped)
    assert "(-2)" in line_of(text, DOWN) and "-1" not in line_of(text, DOWN)


def test_an_older_history_has_no_accuracy_before_its_first_swap(tmp_path):
    swaps = [swap(UP, DOWN, 0.5, True), swap(UP, DOWN, 0.4, False)]
    lines = told(scored_plan(swaps=swaps), tmp_path).splitlines()[-2:]
    assert "? ->  50.00 %" in lines[0] and "50.00 ->  40.00 %" in lines[1]


def test_pins_and_ties_are_the_reason_where_they_bind(tmp_path):
    plan = scored_plan()
    bound = {"pins": [["blocks.0.fc1", 5]], "ties": [["blocks.1.qkv", "blocks.1.proj"]]}
    plan = replace(plan, budget=plan.budget | bound)
    solved = stored_scores(plan).solve(stored_scores(plan).budget.weight_bits)
    text = told(solved, tmp_path)
    assert line_of(text, "blocks.0.fc1").endswith(" pinned") and line_of(text, "blocks.0.fc1").split()[1] == "5"
    assert "as proj; " in line_of(text, "blocks.1.qkv") and "as qkv; " in line_of(text, "blocks.1.proj")


def test_a_plan_without_costs_says_so(tmp_path):
    text = told(replace(scored_plan(), origin={"allocator": "random"}), tmp_path)
    assert "No costs to compare: the plan has no scores that add up: allocator=random left none." in text
    assert "price" not in text and line_of(text, "blocks.0.qkv").split()[0] == "blocks.0.qkv"
    assert "No costs" in told(example_plan(2), tmp_path)


def test_the_csv_has_the_numbers(tmp_path):
    plan = scored_plan()
    told(plan, tmp_path, tmp_path / "why.csv")
    rows = {row["layer"]: row for row in csv.DictReader((tmp_path / "why.csv").open())}
    assert list(rows) == [s.name for s in plan.sites if s.allocated]
    found = {reason.site.name: reason for reason in reasons(plan, stored_scores(plan))}
    for name, row in rows.items():
        assert int(row["bits"]) == plan[name].weight_bits and row["why"] == found[name].why
        if found[name].less:
            assert float(row["change_less_per_weight_bit"]) == found[name].less.per_bit
        assert float(row["price"]) == stored_scores(plan).price()


def test_whatever_was_chosen_has_a_line_and_costs_of_every_kind_are_told():
    plan = example_plan(2)
    chosen = replace(plan, budget=plan.budget | {"allocate": "layers_and_operands"})
    text = explanation(chosen, costs=COSTS)
    assert line_of(text, "blocks.1.qk").split() == ["blocks.1.qk", "5"]
    assert (
        "inputs 3.25, attention operands 3.50" in text and "464.2 kB" in text and "1.5 billion bit operations" in text
    )
    assert "blocks.1.qk " not in explanation(plan) and "operands" not in explanation(plan)
    assert explanation(chosen, "blocks.0.qk").count("blocks.") == 1
    assert "operands" not in explanation(plan, costs={"bops": 1}), "a run of another kind"
