"""Table 4: boxes and masks of detectors, the paper's beside ours."""

import csv

from experiments.frame import frame
from experiments.report import TABLES
from lampq.launch.cells import NOT_AVAILABLE
from lampq.runs.finished_run import seal
from tests.experiments.rows_of import rows_of

OURS = {
    "top1": None,
    "box_ap": 38.5,
    "mask_ap": 37.25,
    "box_ap_full_precision": 46.0,
    "mask_ap_full_precision": 41.5,
    "box_ap_difference": -7.5,
    "mask_ap_difference": -4.25,
    "images": 24,
    "full_validation_images": 5000,
}


def table_of(results):
    (table,) = TABLES["table4"](frame(results.path, ["table4"]))
    return table


def place(table, method, *names):
    """Some cells of a method's row at 4 bits."""
    row = rows_of(table)["Mask R-CNN Swin-T, W4A4", method]
    return [row[name] for name in names]


def test_the_papers_numbers_stand_where_nothing_is_measured(results):
    results.cell("table4", "model=mask_rcnn_swin_tiny bits=4 method=lampq", NOT_AVAILABLE, reason="no detectors")
    table = table_of(results)
    columns = ("AP box", "paper: AP box", "paper: AP mask")
    assert place(table, "LampQ", *columns) == ["not available", "39.8", "38.4"]
    assert place(table, "QDrop", *columns) == ["missing", "12.4", "12.9"]
    whole = rows_of(table)["", "Mask R-CNN Swin-T, full precision"]
    assert [whole[name] for name in columns] == ["–", "46.0", "41.6"]
    assert any("no detectors" in remark for remark in table.remarks)


def test_ours_with_the_difference_to_the_paper_and_to_full_precision(results):
    run = results.measured("table4", "model=mask_rcnn_swin_tiny bits=4 method=lampq", **OURS)
    table = table_of(results)
    box, *others = place(table, "LampQ", "AP box", "AP mask", "drop: AP box", "drop: AP mask", "paper: AP box")
    assert box.startswith("38.50<sup>") and others == ["37.25", "−7.50", "−4.25", "39.8"]
    whole = rows_of(table)["", "Mask R-CNN Swin-T, full precision"]
    assert (whole["AP box"], whole["AP mask"]) == ("46.00", "41.50")
    assert any(run.name in source for source in table.sources)
    table.write(results.path)
    rows = [row for row in csv.DictReader((results.path / "table4.csv").open()) if row["state"] == "done"]
    assert [(row["box_ap"], row["mask_ap"], row["fingerprint"]) for row in rows] == [("38.5", "37.25", run.name)]


def test_errors_and_equal_bits_come_from_the_same_draws_of_images(results):
    pairs = {"box_ap": [38.0, 39.0, 38.4], "mask_ap": [37.0, 37.5, 37.1]}
    uniform = results.measured("table4", "model=mask_rcnn_swin_tiny bits=4 method=adalog", **OURS, allocator="uniform")
    chosen = {**OURS, "box_ap": 40.0, "box_ap_standard_error": 0.5, "mask_ap_standard_error": 0.25}
    run = results.measured("table4", "model=mask_rcnn_swin_tiny bits=4 method=lampq", **chosen, allocator="lampq")
    assert not any("gain" in name for name in table_of(results).header)
    for folder, more in ((uniform, 0.0), (run, 1.5)):
        rows = [f"{box + more * (1 + i)},{mask}" for i, (box, mask) in enumerate(zip(*pairs.values(), strict=True))]
        (folder / "precision_draws.csv").write_text("\n".join(["box_ap,mask_ap", *rows]) + "\n")
        seal(folder)
    box, *others = place(table_of(results), "LampQ", "AP box", "AP mask", "gain: AP box", "gain: AP mask")
    assert box.startswith("40.00 ± 0.50") and others == ["37.25 ± 0.25", "+1.50 ± 1.50", "+0.00 ± 0.00"]
