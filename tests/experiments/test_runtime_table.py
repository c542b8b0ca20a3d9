"""Table 10: seconds of a quantization and how many times AdaLog's they are."""

from experiments.frame import frame, plain
from experiments.report import TABLES
from lampq.launch.cells import NOT_AVAILABLE
from tests.experiments.results_folder import searched_plan
from tests.experiments.rows_of import rows_of

ADALOG = "model=deit_small bits=3 method=adalog"
LAMPQ = "model=deit_small bits=3 method=lampq"


def table_of(results):
    (table,) = TABLES["table10"](frame(results.path, ["table10"]))
    return table


def place(table, method, heading="DeiT-S, W3A3"):
    """What stands in a method's row after its name."""
    return list(rows_of(table)[heading, method].values())[1:]


def timed(results, overrides, calibrate, allocate, **changes):
    changes = {"outcomes": None, "seconds_calibrate": calibrate, "seconds_allocate": allocate} | changes
    return results.measured("table10", overrides, **changes)


def test_calibration_and_search_are_counted_and_compared_with_adalog(results):
    timed(results, ADALOG, 80.0, 0.0, seconds_total=1000.0)
    run = timed(results, LAMPQ, 90.0, 50.0, seconds_total=1000.0)
    results.cell("table10", LAMPQ.replace("lampq", "vt_ptq"), NOT_AVAILABLE, reason="method=vt_ptq does not exist")
    table = table_of(results)
    assert table.header == ["method", "time", "times AdaLog", "paper"]
    assert place(table, "AdaLog") == ["80.0 s", "–", "278.9 s"]
    assert place(table, "LampQ") == ["2 min 20 s", "1.75", "484.5 s"]
    assert place(table, "VT-PTQ") == ["not available", "–", "40.2 h"]
    by_method = {record["method"]: record for record in plain(table.records) if record["state"] == "done"}
    assert set(by_method) == {"AdaLog", "LampQ"}, "nothing of the paper's among our numbers"
    assert by_method["LampQ"]["seconds"] == 140 and by_method["LampQ"]["fingerprint"] == run.name
    assert by_method["LampQ"]["device"] == "cpu" and by_method["LampQ"]["processor"] == "an abacus"


def test_without_adalog_there_is_no_ratio(results):
    timed(results, LAMPQ, 90.0, 50.0)
    table = table_of(results)
    assert place(table, "LampQ") == ["2 min 20 s", "484.5 s"]
    assert place(table, "AdaLog") == ["missing", "278.9 s"]


def test_each_model_is_compared_with_its_own_adalog_and_only_the_papers_models_with_the_paper(results):
    for model, seconds in (("deit_small", 100.0), ("shapes_vit", 2.0)):
        timed(results, f"model={model} bits=3 method=adalog", seconds, 0.0)
        timed(results, f"model={model} bits=3 method=lampq", seconds, 3.0)
    table = table_of(results)
    assert place(table, "LampQ")[1] == "1.03"
    assert place(table, "LampQ", "shapes_vit, W3A3") == ["5.0 s", "2.50", "–"]


def test_a_shortened_search_has_a_footnote(results):
    timed(results, ADALOG, 80.0, 0.0)
    timed(results, LAMPQ, 90.0, 50.0, sample_images=64, plan=searched_plan(max_evaluations=3))
    table = table_of(results)
    assert table.notes == ["D of 64 images; at most 3 further plans scored in the search"]
    assert place(table, "LampQ")[0] == "2 min 20 s<sup>a</sup>" and place(table, "AdaLog")[0] == "80.0 s"


def test_other_bits_and_hyperparameters_are_rows_of_their_own(results):
    timed(results, LAMPQ.replace("bits=3", "bits=4"), 90.0, 50.0)
    timed(results, f"{LAMPQ} lampq.gamma=2", 60.0, 10.0)
    timed(results, ADALOG, 50.0, 0.0)
    table = table_of(results)
    at_four = place(table, "LampQ", "DeiT-S, W4A4")
    assert at_four == ["2 min 20 s", "–", "–"], "at 4 bits there is neither a number of the paper nor an AdaLog"
    assert place(table, "LampQ, gamma 2") == ["70.0 s", "1.40", "484.5 s"]
    done = [r for r in plain(table.records) if r["state"] == "done"]
    places = {(r["method"], r["variant"], r["w/a"]) for r in done}
    assert places == {("AdaLog", "", "3/3"), ("LampQ", "", "4/4"), ("LampQ", "gamma 2", "3/3")}
