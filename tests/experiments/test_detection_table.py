"""Table 4: boxes and masks of detectors, the paper's beside ours."""

import csv

from experiments.detection_table import detection_table
from lampq.launch.cells import NOT_AVAILABLE
from lampq.runs.finished_run import seal

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


def place(table, method, bits, column="Mask R-CNN Swin-T"):
    (row,) = [row for row in table.body if row[0] == [method] and row[1] == [bits]]
    return row[table.header.index(column)]


def test_the_papers_numbers_stand_where_nothing_is_measured(results):
    results.cell("table4", "model=mask_rcnn_swin_tiny bits=4 method=lampq", NOT_AVAILABLE, reason="no detectors")
    table = detection_table(results.path)
    assert place(table, "LampQ", "4MP/4MP") == ["not available", "paper 39.8 / 38.4"]
    assert place(table, "QDrop", "4/4") == ["missing", "paper 12.4 / 12.9"]
    assert place(table, "Full precision", "32/32") == ["–", "paper 46.0 / 41.6"]
    assert any("no detectors" in remark for remark in table.remarks)


def test_ours_with_the_difference_to_the_paper_and_to_full_precision(results):
    run = results.measured("table4", "model=mask_rcnn_swin_tiny bits=4 method=lampq", **OURS)
    table = detection_table(results.path)
    lines = place(table, "LampQ", "4MP/4MP")
    assert lines[0].startswith("38.50 / 37.25<sup>")
    assert lines[1:3] == ["paper 39.8 / 38.4 (−1.30 / −1.15)", "drop −7.50 / −4.25"]
    assert place(table, "Full precision", "32/32")[0] == "46.00 / 41.50"
    assert any(run.name in source for source in table.sources)
    table.write(results.path)
    rows = [row for row in csv.DictReader((results.path / "table4.csv").open()) if row["state"] == "done"]
    assert [(row["box_ap"], row["mask_ap"], row["fingerprint"]) for row in rows] == [("38.5", "37.25", run.name)]


def test_errors_and_equal_bits_come_from_the_same_draws_of_images(results):
    pairs = {"box_ap": [38.0, 39.0, 38.4], "mask_ap": [37.0, 37.5, 37.1]}
    uniform = results.measured("table4", "model=mask_rcnn_swin_tiny bits=4 method=adalog", **OURS, allocator="uniform")
    chosen = {**OURS, "box_ap": 40.0, "box_ap_standard_error": 0.5, "mask_ap_standard_error": 0.25}
    run = results.measured("table4", "model=mask_rcnn_swin_tiny bits=4 method=lampq", **chosen, allocator="lampq")
    before = place(detection_table(results.path), "LampQ", "4MP/4MP")
    assert not any("equal bits" in line for line in before)
    for folder, more in ((uniform, 0.0), (run, 1.5)):
        rows = [f"{box + more * (1 + i)},{mask}" for i, (box, mask) in enumerate(zip(*pairs.values(), strict=True))]
        (folder / "precision_draws.csv").write_text("\n".join(["box_ap,mask_ap", *rows]) + "\n")
        seal(folder)
    lines = place(detection_table(results.path), "LampQ", "4MP/4MP")
    assert lines[0].startswith("40.00 ± 0.50 / 37.25 ± 0.25")
    assert lines[1] == "against equal bits +1.50 ± 1.50 / +0.00 ± 0.00"
