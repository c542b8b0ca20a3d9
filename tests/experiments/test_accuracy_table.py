"""Tables of accuracies: our numbers with the paper's beside them, and words where nothing is measured."""

import csv
import shutil

import pytest

from experiments.footnotes import footnote
from experiments.frame import frame, plain
from experiments.measured import Run, paired_difference
from experiments.report import TABLES
from lampq.launch.cells import FAILED, NOT_AVAILABLE, PLANNED, RUNNING
from lampq.runs.finished_run import read_run
from tests.experiments.results_folder import searched_plan
from tests.experiments.rows_of import rows_of

ADALOG = "model=deit_tiny bits=3 method=adalog"
LAMPQ = "model=deit_tiny bits=3 method=lampq"


def table_of(results, name="table3"):
    (table,) = TABLES[name](frame(results.path, [name]))
    return table


def place(table, method, bits="3/3", model="DeiT-T"):
    """Cells of the row of a method at given bits, by column; a column that no row needs is left out."""
    return rows_of(table)[f"{model}, W{bits.replace('/', 'A')}", method]


def records(table):
    return plain(table.records)


def record(table, method, bits="3/3", variant=""):
    (found,) = [r for r in records(table) if (r["method"], r["w/a"], r["variant"]) == (method, bits, variant)]
    return found


def test_each_figure_has_a_column_of_its_own(results):
    results.measured("table3", ADALOG)  # 44 of 100 right, 80 in full precision: 40 kept, 4 gained
    table = table_of(results)
    assert table.header == ["method", "top-1", "reweighted", "paper", "drop", "paper: drop", "cost (s)"]
    assert table.body[0] == ["DeiT-T, full precision", "80.00 ± 4.02", "–", "72.13", "–", "–", "–"]
    shown = ["AdaLog", "44.00 ± 4.99<sup>a</sup>", "41.64", "31.56", "−36.00 ± 5.60", "−40.57", "250"]
    assert list(place(table, "AdaLog").values()) == shown
    found = record(table, "AdaLog")
    assert found["top1"] == 44 and found["paper_top1"] == 31.56 and found["paper_full_precision"] == 72.13
    assert found["difference_to_paper"] == pytest.approx(12.44) and found["paper_drop"] == pytest.approx(-40.57)


def test_images_are_weighed_so_that_full_precision_is_as_often_right_as_the_paper_prints(results):
    # Of 4 images that full precision gets right quantization keeps 1 (a quarter), of 2 others it gains 1 (a half).
    run = read_run(results.run(outcomes=(1, 3, 1, 1)), Run)
    assert run.metrics["top1"] == pytest.approx(100 / 3)
    assert run.top1_at(80) == pytest.approx(80 / 4 + 20 / 2)
    assert run.top1_at(100 * 4 / 6) == pytest.approx(run.metrics["top1"]), "nothing changes at our own accuracy"


def test_an_easy_subset_without_any_wrong_image_can_be_weighed_as_well(results):
    assert read_run(results.run(outcomes=(1, 3, 0, 0)), Run).top1_at(80) == pytest.approx(20)


@pytest.mark.parametrize(
    ("state", "words"),
    [(PLANNED, "missing"), (FAILED, "failed"), (NOT_AVAILABLE, "not available"), (RUNNING, "interrupted")],
)
def test_what_is_not_measured_is_named_and_never_takes_the_papers_number(results, state, words):
    results.cell("table3", ADALOG, state, reason="no card")
    table = table_of(results)
    for method, state, printed in (("AdaLog", words, "31.56"), ("QDrop", "missing", "30.73")):
        assert (place(table, method)["top-1"], place(table, method)["paper"]) == (state, printed)
    assert table.body[0][:3] == ["DeiT-T, full precision", "–", "72.13"]
    assert record(table, "AdaLog")["state"] == words
    assert all(r.get("top1") is None and r["state"] != "done" for r in records(table))


def test_a_cell_whose_job_is_at_work_is_running(results):
    cell = results.cell("table3", ADALOG, PLANNED)
    with cell.running(results.path):
        assert place(table_of(results), "AdaLog")["top-1"] == "running"
    assert place(table_of(results), "AdaLog")["top-1"] == "interrupted"


def test_a_cell_whose_run_has_gone_is_missing(results):
    shutil.rmtree(results.measured("table3", ADALOG))
    assert place(table_of(results), "AdaLog")["top-1"] == "missing"


def test_a_run_that_was_not_validated_is_missing(results):
    results.measured("table3", ADALOG, outcomes=None)
    assert place(table_of(results), "AdaLog")["top-1"] == "missing"


def test_why_cells_are_not_available_stands_below(results):
    results.cell("table3", ADALOG.replace("adalog", "erq"), NOT_AVAILABLE, reason="method=erq does not exist")
    assert any("`method=erq does not exist`" in remark for remark in table_of(results).remarks)


def test_all_validation_images_need_no_footnote_and_no_weights(results):
    results.measured("table3", ADALOG, full_validation_images=100)
    table = table_of(results)
    assert place(table, "AdaLog")["top-1"] == "44.00 ± 4.99" and table.notes == []
    assert "reweighted" not in table.header


def test_footnotes_say_what_was_less_than_the_papers_setting_and_are_shared(results):
    short = {"candidates": 32, "rounds": 1, "steps": 1}
    results.measured("table3", ADALOG)
    results.measured("table3", LAMPQ, sample_images=64, search=short, plan=searched_plan(max_evaluations=3))
    results.measured("table3", LAMPQ.replace("lampq", "vt_ptq"))
    table = table_of(results)
    assert table.notes == [
        "100 of 50,000 validation images",
        "100 of 50,000 validation images; D of 64 images; at most 3 further plans scored in the search; shortened "
        "search of the base quantizer",
    ]
    marks = [place(table, method)["top-1"][-len("<sup>a</sup>") :] for method in ("AdaLog", "LampQ", "VT-PTQ")]
    assert marks == ["<sup>a</sup>", "<sup>b</sup>", "<sup>a</sup>"]


def test_a_set_of_images_of_unknown_size_counts_as_a_part(results):
    results.measured("table3", ADALOG, full_validation_images=None)
    table = table_of(results)
    assert table.notes == ["100 of the validation images"]
    assert place(table, "AdaLog")["reweighted"] == "41.64"


def test_several_seeds_give_mean_and_standard_deviation(results):
    for seed, outcomes in enumerate([(40, 40, 0, 20), (40, 40, 4, 16), (44, 36, 4, 16)]):
        results.measured("table3", f"{ADALOG} seed={seed}", outcomes=outcomes)
    table = table_of(results)
    shown = place(table, "AdaLog")
    assert shown["top-1"] == "44.00 ± 4.00<sup>a</sup><sup>b</sup>", "of 40, 44 and 48"
    assert table.notes[1] == "3 seeds: mean and standard deviation" and shown["drop"] == "−36.00 ± 4.00"
    assert [r["seed"] for r in records(table) if r["state"] == "done"] == [0, 1, 2]


def test_a_run_that_two_cells_led_to_counts_once(results):
    run = results.measured("table3", ADALOG)
    results.cell("table3", f"{ADALOG} seed=0", run=run.name)
    results.cell("table3", f"{ADALOG} scale=subset dataset.root=/data", run=run.name)
    table = table_of(results)
    assert not any("seeds" in note for note in table.notes)
    assert len(table.sources) == 1 and len([r for r in records(table) if r["state"] == "done"]) == 1


def test_a_variant_stands_directly_under_its_method_with_the_full_override_below(results):
    results.measured("table3", f"{LAMPQ} lampq.gamma=2 scale=subset")
    for overrides in (LAMPQ, ADALOG, ADALOG.replace("adalog", "aphq_vit")):
        results.measured("table3", overrides)
    table = table_of(results)
    order = [row[0] for row in table.body]
    assert order[order.index("DeiT-T, W3A3") :][-5:] == ["AdaLog", "VT-PTQ", "LampQ", "LampQ, gamma 2", "APHQ-ViT"]
    found = record(table, "LampQ", variant="gamma 2")
    assert (found["top1"], found["overrides"], found["paper_top1"]) == (44, "lampq.gamma=2", 37.54)
    assert any(line.startswith("LampQ, gamma 2 (`lampq.gamma=2`), DeiT-T W3A3: `") for line in table.sources)


def test_what_is_measured_as_a_variant_alone_is_not_missing(results):
    shortened = {"search": {"iterations": 250, "images": 512}}
    results.measured("table3", "model=deit_tiny bits=3 method=qdrop effort=cpu base_quantizer.images=512", **shortened)
    table = table_of(results)
    assert place(table, "QDrop, 250 steps")["paper"] == "30.73"
    assert ("DeiT-T, W3A3", "QDrop") not in rows_of(table)
    results.cell("table3", "model=deit_tiny bits=3 method=qdrop", FAILED, reason="no card")
    assert place(table_of(results), "QDrop")["top-1"] == "failed; see 250 steps"


def test_variants_of_one_method_have_different_words(results):
    for more in ("dataset.sample_images=100", "dataset.sample_images=100 lampq.gamma=2", "lampq.gamma=2", "effort=cpu"):
        results.measured("table3", f"{LAMPQ} {more}")
    found = [row[0] for row in table_of(results).body if row[0].startswith("LampQ")]
    assert found == ["LampQ", "LampQ, effort cpu", "LampQ, gamma 2", "LampQ, D of 100", "LampQ, D of 100, gamma 2"]


def test_a_single_run_under_the_experiments_name_stands_in_no_row(results):
    results.measured("table3", "bits=3")
    results.cell("table3", "bits=3 method=lampq", FAILED, reason="no card")
    table = table_of(results)
    assert table.body == [] and table.sources == []


def test_bits_that_the_paper_does_not_have_are_a_row_of_their_own(results):
    results.measured("table3", "model=deit_tiny bits=6 method=adalog", weight_bits=6.0, activation_bits=6.0)
    results.cell("table3", "model=deit_tiny bits=2 method=adalog", PLANNED)
    table = table_of(results)
    assert place(table, "AdaLog", "6/6")["top-1"].startswith("44.00")
    assert place(table, "AdaLog", "2/2")["top-1"] == "missing"
    assert place(table, "AdaLog", "6/6")["paper"] == "–"


@pytest.mark.parametrize("order", [("smoke", "subset", "full"), ("full", "subset", "smoke")])
def test_of_several_scales_the_one_with_the_most_images_wins(results, order):
    outcomes = {"smoke": (8, 0, 0, 2), "subset": (10, 10, 0, 20), "full": (30, 50, 0, 20)}
    for scale in order:
        results.measured("table3", f"{ADALOG} scale={scale}", outcomes=outcomes[scale])
    results.cell("table3", f"{ADALOG} scale=other", FAILED, reason="no card")
    table = table_of(results)
    assert place(table, "AdaLog")["top-1"].startswith("30.00") and record(table, "AdaLog")["images"] == 100
    assert table.body[0][1].startswith("80.00"), "on the same images"


def test_of_as_many_images_the_search_on_the_larger_d_wins(results):
    results.measured("table3", f"{LAMPQ} scale=full", sample_images=1024, outcomes=(50, 30, 0, 20))
    results.measured("table3", f"{LAMPQ} scale=subset", sample_images=500, outcomes=(60, 20, 0, 20))
    assert place(table_of(results), "LampQ")["top-1"].startswith("50.00")


def test_an_embedded_model_has_rows_without_the_papers_numbers(results):
    results.measured("table3", "model=shapes_vit bits=3 method=adalog")
    results.measured("table3", ADALOG)
    table = table_of(results)
    order = [row[0] for row in table.body]
    assert order[0] == "DeiT-T, full precision" and order[-3:] == [
        "shapes_vit, full precision",
        "shapes_vit, W3A3",
        "AdaLog",
    ]
    shown = place(table, "AdaLog", model="shapes_vit")
    assert shown["top-1"].startswith("44.00") and {shown["paper"], shown["paper: drop"], shown["reweighted"]} == {"–"}


@pytest.mark.parametrize(
    ("outcomes", "top1", "reweighted", "reproduced"),
    [
        ((200, 300, 5, 495), "20.50", "29.13", True),  # 11 points below the paper, on images that are as much harder
        ((351, 549, 1, 99), "35.20", "28.41", False),  # above the paper, on easy images
        ((400, 600, 0, 0), "40.00", "28.85", True),  # 2.7 points below
    ],
)
def test_not_reproduced_is_said_of_weighed_numbers_more_than_three_points_below_the_paper(
    results, outcomes, top1, reweighted, reproduced
):
    results.measured("table3", ADALOG, outcomes=outcomes)
    table = table_of(results)
    shown = place(table, "AdaLog")
    assert shown["top-1"].startswith(top1) and shown["reweighted"] == reweighted
    assert ("not reproduced" in table.notes) != reproduced


def test_table_6_shows_what_the_paper_prints_for_deit_s_beside_another_model(results):
    for model in ("deit_tiny", "deit_small", "shapes_vit"):
        results.measured("table6", f"model={model} bits=3 method=lampq", full_validation_images=100)
    table = table_of(results, "table6")
    printed = ("paper, DeiT-S", "paper, DeiT-S: drop")
    for model, paper in (("DeiT-T", ("45.38", "−34.45")), ("DeiT-S", ("45.38", "−34.45")), ("shapes_vit", ("–", "–"))):
        shown = place(table, "LampQ", model=model)
        assert (shown["top-1"], shown["drop"], shown["plans"]) == ("44.00 ± 4.99", "−36.00 ± 5.60", "30")
        assert tuple(shown[name] for name in printed) == paper
    by_model = {r["model"]: r["paper_top1"] for r in records(table) if r["state"] == "done"}
    assert by_model == {"DeiT-T": None, "DeiT-S": 45.38, "shapes_vit": None}
    missing = place(table, "Base: AdaLog")
    assert (missing["top-1"], *(missing[name] for name in printed)) == ("missing", "24.47", "−55.36")
    assert any("DeiT-S alone" in remark for remark in table.remarks)
    assert not any("alone" in remark for remark in table_of(results).remarks), "of table 6 only"


def test_table_6_has_a_row_for_both_readings_of_i3_without_i2(results):
    results.cell("table6", "model=deit_small bits=3 method=lampq", PLANNED)
    table = table_of(results, "table6")
    for label in ("Base + I1 + I3 (alpha = 1)", "Base + I1 + I3 (uniform start)"):
        assert place(table, label, model="DeiT-S")["paper, DeiT-S"] == "27.87"


def test_weights_and_activations_of_table_5_have_bits_of_their_own(results):
    overrides = "model=deit_tiny method=psaq_vit weight_bits=4 activation_bits=8"
    results.measured("table5", overrides, full_validation_images=100)
    table = table_of(results, "table5")
    assert [place(table, "PSAQ-ViT", bits)["paper"] for bits in ("4/8", "8/8")] == ["65.57", "71.56"]
    assert record(table, "PSAQ-ViT", "4/8")["difference_to_paper"] == pytest.approx(-21.57)


def test_what_was_shortened_is_measured_by_the_methods_own_publication(results):
    def notes(method, **settings):
        usual = {"candidates": 128, "rounds": 3, "steps": 6}
        folder = results.run(search={**usual, **settings}, full_validation_images=100, base_quantizer=method)
        run = read_run(folder, Run)
        run.identity["base_quantizer"][0] = method
        return footnote(run)

    assert "shortened" not in notes("adalog") and "shortened" in notes("adalog", candidates=100)
    assert "shortened" not in notes("ptq4vit", candidates=100) and "shortened" in notes("ptq4vit", candidates=50)
    trained = notes("qdrop", iterations=250, images=512)
    assert "blocks trained in 250 steps (published: 20,000) on 512 images" in trained
    assert "blocks" not in notes("qdrop", iterations=20_000, images=1024)
    assert "100 steps (published: 3,000) on" in notes("glf_q", iterations=100, images=512)
    assert "blocks" not in notes("glf_q", iterations=3_000, images=1024)


def test_a_control_has_no_number_of_the_paper_beside_it(results):
    overrides = "model=deit_tiny method=psaq_vit weight_bits=4 activation_bits=8"
    results.measured("table5", overrides, full_validation_images=100)
    results.measured("table5", f"{overrides} dataset.source=noise", full_validation_images=100)
    table = table_of(results, "table5")
    assert place(table, "PSAQ-ViT", "4/8")["paper"] == "65.57"
    control = place(table, "PSAQ-ViT, noise images", "4/8")
    assert control["paper"] == "–" and control["top-1"] == "44.00 ± 4.99", "no footnote either"


def test_every_number_names_its_run(results):
    run = results.measured("table3", ADALOG)
    table = table_of(results)
    (source,) = table.sources
    for words in (run.name, "run.py number=1", "abcdef123456", "seed 0", "cpu", "an abacus", "2 threads", "2026-01-02"):
        assert words in source
    found = record(table, "AdaLog")
    assert found["fingerprint"] == run.name and found["commit"] == "abcdef123456" and found["device"] == "cpu"
    table.write(results.path)
    rows = list(csv.DictReader((results.path / "table3.csv").open()))
    assert [row["top1"] for row in rows if row["state"] == "done"] == ["44.0"]


def test_rows_computed_with_other_kernels_are_named(results):
    found = {"vendor": "GenuineIntel", "capability": "AVX2", "mkl": "2024.2", "onednn": None, "variables": {}}
    same = {"kernels": {**found, "variables": {"OMP_NUM_THREADS": "1"}}}
    results.measured("table3", ADALOG, where={"kernels": found})
    results.measured("table3", LAMPQ, where=same)
    assert len(table_of(results).sources) == 2, "threads are no other kernels"
    other = {"kernels": {**found, "variables": {"ATEN_CPU_CAPABILITY": "default"}}}
    run = results.measured("table3", "model=deit_tiny bits=4 method=adalog", where=other)
    told = table_of(results).sources[0]
    assert "Most: GenuineIntel AVX2 MKL 2024.2. Others: " in told
    assert told.endswith(f"GenuineIntel AVX2 MKL 2024.2 ATEN_CPU_CAPABILITY=default: `{run.name}`")


def test_runs_on_the_same_images_are_compared_in_pairs(results):
    one, other = (read_run(results.run(outcomes=outcomes), Run) for outcomes in ((3, 0, 0, 1), (1, 2, 0, 1)))
    assert paired_difference(one, other) == pytest.approx((50, 100 * (1 / 3) ** 0.5 / 2))
    assert paired_difference(other, one)[0] == pytest.approx(-50)
    with pytest.raises(ValueError, match="different validation images"):
        paired_difference(one, read_run(results.run(validation="others"), Run))


def test_a_search_stands_against_equal_bits_paired_by_image(results):
    results.measured("table3", ADALOG, allocator="uniform")  # 44 of 100 right
    results.measured("table3", LAMPQ, allocator="lampq", outcomes=(60, 20, 4, 16))  # 20 more of them
    table = table_of(results)
    assert place(table, "LampQ")["gain"].startswith("+20.00 ± ")
    found = record(table, "LampQ")
    assert found["uniform_difference"] == pytest.approx(20)
    assert 3 < found["uniform_difference_standard_error"] < 5  # of single shares of 44 and 64 % it would be 7
    assert record(table, "AdaLog")["uniform_difference"] is None and place(table, "AdaLog")["gain"] == "–"


def test_equal_bits_calibrated_on_other_images_are_no_pair(results):
    for method, calibration, outcomes in ((ADALOG, "noise", (1, 79, 0, 20)), (LAMPQ, "made", (60, 20, 4, 16))):
        kind = "uniform" if method == ADALOG else "lampq"
        images = {"calibration": {"source": calibration}}
        results.measured("table3", method, allocator=kind, outcomes=outcomes, image_sets=images)
    assert "gain" not in table_of(results).header


def test_the_cost_of_a_search_has_columns_and_that_it_saw_part_of_d_stands_below(results):
    results.measured("table3", ADALOG)
    results.measured("table3", f"{LAMPQ} seed=0", evaluations=13, evaluation_images=250, full_validation_images=100)
    results.measured("table3", f"{LAMPQ} seed=1", evaluations=18, evaluation_images=250, full_validation_images=100)
    table = table_of(results)
    assert (place(table, "LampQ")["plans"], place(table, "AdaLog")["plans"]) == ("13 to 18", "–")
    assert "plans scored on the first 250 of them in the search" in table.notes
    assert [r["evaluation_images"] for r in records(table) if r.get("evaluations") in (13, 18)] == [250, 250]


def test_rows_whose_d_began_with_the_calibration_images_have_a_section_of_their_own(results):
    sample = {"images": 500, "content": "d", "preprocessing": {}}
    results.measured("table3", LAMPQ, allocator="lampq", image_sets={"sample": sample})
    older = ["DeiT-T, W3A3, older: D began with the calibration images"]
    body = table_of(results).body
    assert [row[0] for row in body[body.index(older) :]] == [older[0], "LampQ"] and body[-1][1].startswith("44.00")
    assert {row[1] for row in body[: body.index(older)] if row[0] == "LampQ"} == {"missing"}
    again = f"{LAMPQ} dataset.root=/data"
    results.measured("table3", again, allocator="lampq", image_sets={"sample": sample | {"drawn": "disjoint"}})
    found = table_of(results)
    shown = [row[1][:5] for row in found.body if row[0] == "LampQ" and row[1] != "missing"]
    assert shown == ["44.00", "44.00"] and not any("seeds" in note for note in found.notes)
    assert [row[0] for row in found.body[found.body.index(older) :]] == [older[0], "LampQ"]


def test_other_images_another_seed_or_other_bits_are_no_pair(results):
    results.measured("table3", ADALOG, allocator="uniform", validation="others")
    results.measured("table3", ADALOG.replace("bits=3", "bits=4"), allocator="uniform")
    results.measured("table3", LAMPQ, allocator="lampq")
    assert "gain" not in table_of(results).header


LIST = "dataset.calibration_list=/data/list.txt"


@pytest.mark.parametrize(("right", "words"), [(70, []), (71, []), (73, ["not reproduced"]), (66, ["not reproduced"])])
def test_beside_the_authors_code_a_difference_either_way_is_one_of_mathematics(results, right, words):
    outcomes = (right - 4, 80 - (right - 4), 4, 16)
    results.measured("authors_code", f"model=deit_tiny bits=4 method=repq_vit {LIST}", outcomes=outcomes)
    table = table_of(results, "authors_code")
    shown = place(table, "RepQ-ViT", "4/4")
    assert shown["code"] == "70.10" and shown["ours − code"] == f"{right - 70.1:+.2f}".replace("-", "−")
    assert [note for note in table.notes if note == "not reproduced"] == words and "paper" not in table.header
    assert (place(table, "ERQ", "4/4")["top-1"], place(table, "ERQ", "4/4")["code"]) == ("missing", "73.10")


def test_beside_the_authors_code_other_calibration_images_are_a_row_of_their_own(results):
    results.measured("authors_code", "model=deit_tiny bits=4 method=repq_vit")
    table = table_of(results, "authors_code")
    assert place(table, "RepQ-ViT, without dataset.calibration_list", "4/4")["top-1"].startswith("44.00")
