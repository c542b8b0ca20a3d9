"""Two plans beside each other: bits, sizes, and what their runs got right."""

import pytest

from experiments.__main__ import main
from experiments.diff import diff
from lampq.errors import LampQError
from lampq.runs.finished_run import seal
from tests.experiments.results_folder import scored_plan
from tests.report.plans import example_plan


def changed(plan, **bits):
    return plan.with_bits({name.replace("_", "."): (value, value) for name, value in bits.items()})


def two(results, first=None, second=None):
    """Two runs whose plans differ in two layers."""
    plan = scored_plan()
    at = plan.layer_bits()
    other = changed(plan, blocks_0_qkv=at["blocks.0.qkv"] - 1, blocks_1_fc2=at["blocks.1.fc2"] + 1)
    runs = results.run(plan=plan, **(first or {})), results.run(plan=other, **(second or {}))
    return [run / "plan.json" for run in runs]


def test_layers_that_differ_are_named_with_what_they_cost(results):
    text = diff(*two(results))
    assert "2 of the allocated layers differ" in text
    rows = [line.split() for line in text.splitlines() if line.startswith("blocks.")]
    qkv, fc2 = 3 * 192**2, 4 * 192**2
    assert [(r[0], int(r[3]) - int(r[2]), r[4], r[5]) for r in rows] == [
        ("blocks.0.qkv", -1, "-1", f"{-qkv:+,}"),
        ("blocks.1.fc2", 1, "+1", f"{fc2:+,}"),
    ]
    total = 2 * 12 * 192**2
    assert f"({(fc2 - qkv) / total:+.4f}; {fc2 - qkv:+,} bits)" in text
    assert "packed: A 2.50 MB, B 2.50 MB (+0 bytes)" in text


def test_accuracies_are_compared_in_pairs_on_the_same_images(results):
    sample = {"sample_images": 4}
    one = {"outcomes": (3, 0, 0, 1), "sample_top1": 50.0, "sample_outcomes": (1, 1, 0, 0), **sample}
    other = {"outcomes": (1, 2, 0, 1), "sample_top1": 75.0, "sample_outcomes": (1, 1, 1, 0), **sample}
    *_, validation, on_d = diff(*two(results, one, other)).splitlines()
    # Of 4 images two are lost: a mean of -0.5, a standard deviation of 1 / sqrt(3).
    assert "top-1 on 4 validation images: A 75.00" in validation
    assert "B - A -50.00 ± 28.87 points, paired by image" in validation
    assert on_d == "top-1 on D, 4 images: A 50.00 %, B 75.00 %; B - A +25.00 ± 25.00 points, paired by image"


def test_where_outcomes_on_d_were_not_kept_the_error_is_not_paired_and_says_so(results):
    metrics = {"sample_images": 100, "sample_top1": 50.0}
    on_d = diff(*two(results, metrics, metrics)).splitlines()[-1]
    assert "B - A +0.00 ± 7.07 points, not paired: a run kept no outcomes on D" in on_d


def test_detectors_are_compared_draw_by_draw(results):
    one = {"box_ap": 70.0, "mask_ap": 71.0, "outcomes": None, "images": 300}
    other = {**one, "box_ap": 72.0, "validation": "all"}
    plans = two(results, one, other)
    text = diff(*plans)
    assert "AP box on 300 validation images: A 70.00 %, B 72.00 %; no difference: no draws of images were kept" in text
    for plan, boxes in zip(plans, ((69, 71, 70), (70, 74, 72)), strict=True):
        rows = [f"{box},71.5" for box in boxes]
        (plan.parent / "precision_draws.csv").write_text("\n".join(["box_ap,mask_ap", *rows]) + "\n")
        seal(plan.parent)
    *_, box, mask = diff(*plans).splitlines()
    assert box.endswith("B - A +2.00 ± 1.00 points, paired by draws of images") and mask.startswith("AP mask on 300")


def test_other_images_give_no_difference(results):
    text = diff(*two(results, {"validation": "a"}, {"validation": "b"}))
    assert "top-1 on validation images" in text and "on different images, no difference" in text
    text = diff(*two(results, {"outcomes": None}, {}))
    assert "top-1 on validation images: not measured in both runs" in text


def test_plan_files_by_themselves_have_no_accuracies(tmp_path):
    plan = scored_plan()
    for name in ("a", "b"):
        plan.write(tmp_path / f"{name}.json")
    text = diff(tmp_path / "a.json", tmp_path / "b.json")
    assert "No bits differ." in text and "top-1" not in text and "packed" not in text


def test_weights_and_inputs_of_other_bits_are_told_apart(tmp_path):
    example_plan(2, activation_bits=8).write(tmp_path / "a.json")
    example_plan(2).write(tmp_path / "b.json")
    text = diff(tmp_path / "a.json", tmp_path / "b.json")
    assert all("/8" in line for line in text.splitlines() if line.startswith("blocks."))


def test_plans_of_two_models_are_refused(tmp_path):
    for blocks in (2, 3):
        example_plan(blocks).write(tmp_path / f"{blocks}.json")
    with pytest.raises(LampQError, match="a plan for another model"):
        diff(tmp_path / "2.json", tmp_path / "3.json")


def test_the_command(results, capsys):
    one, other = two(results)
    assert main(["diff", one.parent.name, str(other), "--results", str(results.path)]) == 0
    assert "B: lampq" in capsys.readouterr().out
