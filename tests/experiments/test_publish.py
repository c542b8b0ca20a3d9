import csv
import json

import pytest

from experiments.__main__ import main
from experiments.paper import published_top1, table
from experiments.publish import publish, without_machine
from lampq.errors import LampQError


def make_run(results, fingerprint, **changes):
    folder = results / "runs" / fingerprint
    folder.mkdir(parents=True)
    metrics = {
        "fingerprint": fingerprint,
        "model": "deit_tiny_patch16_224.fb_in1k",
        "dataset": "imagenet",
        "base_quantizer": "adalog",
        "allocator": "uniform",
        "weight_bits": 3.0,
        "activation_bits": 3.0,
        "seed": 0,
        "top1": 35.0,
        "top1_standard_error": 1.5,
        "top1_full_precision": 81.25,
        "top1_full_precision_standard_error": 1.4,
        "top1_difference": -46.25,
        "top1_difference_standard_error": 1.7,
        "images": 800,
        "average_weight_bits": 3.0,
        "average_activation_bits": 3.0,
        "packed_bytes": 2_500_000,
        "seconds_total": 100.0,
        "seconds_cold": 200.0,
    } | changes
    environment = {"command": "run.py dataset.root=/data/x/imagenet", "commit": "abc", "device": "cpu", "threads": 2}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "identity.json").write_text(json.dumps({"base_quantizer": ["adalog", changes.get("revision", 1), {}]}))
    (folder / "plan.json").write_text(json.dumps({"origin": {}}))
    for name in ("config.yaml", "images.json"):
        (folder / name).write_text("root: /data/x/imagenet/train\n")
    quantized = changes.get("quantized", [1, 0, 0, 0])
    rows = [f"{image},{full},{own}" for image, (full, own) in enumerate(zip([1, 1, 1, 0], quantized, strict=True))]
    (folder / "outcomes.csv").write_text("\n".join(["image,full_precision_top1,top1", *rows]) + "\n")
    (folder / "bit_allocation.png").write_bytes(b"figure")
    return folder


def test_a_run_is_copied_with_the_paper_beside_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMPQ_DATA", "/data/x")
    make_run(tmp_path, "aaaa")
    make_run(tmp_path, "bbbb", allocator="lampq", top1=41.0, top1_difference=-40.25, quantized=[1, 1, 0, 1])
    target = publish("deit_tiny", ["aa", "bb"], tmp_path)
    rows = list(csv.DictReader((target / "table.csv").open()))
    assert [row["paper_top1"] for row in rows] == ["31.56", "37.54"]
    assert [row["top1"] for row in rows] == ["35.0", "41.0"]
    assert float(rows[0]["paper_top1_difference"]) == pytest.approx(31.56 - 72.13)
    assert [row["uniform_difference"] for row in rows] == ["", "50.0"]
    assert float(rows[1]["uniform_difference_standard_error"]) == pytest.approx(100 * (1 / 3) ** 0.5 / 2)
    assert float(rows[0]["top1_at_paper_full_precision"]) == pytest.approx(72.13 / 3)
    assert float(rows[1]["top1_at_paper_full_precision"]) == pytest.approx(72.13 * 2 / 3 + 27.87)
    text = "".join(path.read_text() for path in target.rglob("*") if path.suffix in (".md", ".json", ".yaml", ".csv"))
    assert "/data/x" not in text
    assert "${LAMPQ_DATA}/imagenet" in text


def test_runs_are_compared_within_one_revision_of_the_base_quantizer(tmp_path):
    make_run(tmp_path, "aaaa")
    make_run(tmp_path, "bbbb", allocator="lampq", revision=2)
    rows = list(csv.DictReader((publish("x", ["aa", "bb"], tmp_path) / "table.csv").open()))
    assert [row["uniform_difference"] for row in rows] == ["", ""]


def test_what_the_paper_did_not_print_stays_empty(tmp_path):
    make_run(tmp_path, "aaaa", base_quantizer="rtn")
    row = next(csv.DictReader((publish("x", ["aaaa"], tmp_path) / "table.csv").open()))
    assert row["paper_top1"] == ""


def test_a_missing_or_ambiguous_run_is_named(tmp_path, capsys):
    make_run(tmp_path, "aaaa")
    make_run(tmp_path, "aabb")
    with pytest.raises(LampQError, match="aa: 2 runs"):
        publish("x", ["aa"], tmp_path)
    assert main(["publish", "x", "cc", "--results", str(tmp_path)]) == 1
    assert "error: cc: no finished run" in capsys.readouterr().err


def test_no_path_of_a_machine_is_left():
    assert without_machine("at /usr/lib/somewhere/file.py and a/b, 3/4") == "at file.py and a/b, 3/4"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("deit_small_patch16_224.fb_in1k", "adalog", "lampq", 3), 45.38),
        (("deit_small_patch16_224.fb_in1k", "adalog", "uniform", 4), 72.06),
        (("vit_base_patch16_224", "full_precision", "", 32), 84.53),
        (("deit_small_patch16_224", "adalog", "lampq", 5), None),
        (("shapes_vit", "adalog", "lampq", 3), None),
    ],
)
def test_published_cells(arguments, expected):
    assert published_top1(*arguments) == expected


def test_all_printed_tables_are_there():
    assert [len(table(number)) for number in (2, 3, 4, 5, 6, 8, 9, 10)] == [8, 16, 9, 7, 5, 4, 8, 3]
