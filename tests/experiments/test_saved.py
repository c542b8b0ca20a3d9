"""Models of runs as files: the commands of docs/export.md on a run of the embedded ViT."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import hydra
import pytest
import torch
import yaml

from experiments import saved
from experiments.__main__ import main
from lampq.artefact.loading import load
from lampq.configuration.config_folder import config_folder
from lampq.configuration.settings import check
from lampq.errors import LampQError
from lampq.pipeline import run
from lampq.plan.bit_plan import BitPlan
from lampq.runs.finished_run import VERIFIED

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = re.findall(r"^(python -m experiments .*?)\s+#", (ROOT / "docs" / "export.md").read_text(), re.M)
PARTS = ("base_quantizer=rtn", "allocator=uniform", "bits=4", "dataset.validation_images=24", "effort=smoke")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A run that has saved no model, as one of a grid."""
    folder = tmp_path_factory.mktemp("runs")
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        overrides = [*PARTS, f"paths.results={folder}/results", f"paths.cache={folder}/cache"]
        settings = check(hydra.compose("config", overrides=overrides))
    (record,) = run(settings)
    assert not record.model.exists()
    return record


def results_of(record):
    return record.folder.parents[1]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[3])
def test_a_command_of_the_page_does_what_it_says(command, record, tmp_path, monkeypatch, capsys):
    if command.split()[3] in ("export", "verify"):
        for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    folder = saved.model_of(record.fingerprint, results_of(record))[0] if "FOLDER" in command else None
    BitPlan.read(record.folder / "plan.json").write(tmp_path / "mine.json")
    ours = {"RUN": record.fingerprint, "PLAN": "mine.json", "FOLDER": str(folder), "dataset=imagenet": "seed=1"}
    ours["dataset.root=/data/imagenet"] = "dataset.validation_images=24"
    words = [ours.get(word, word) for word in shlex.split(command)[3:]]
    assert main([*words, "--results", str(results_of(record))]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert out
    if command.split()[3] == "verify":
        rows = {row["runtime"]: row for row in csv.DictReader((record.folder / VERIFIED).open())}
        assert list(rows)[:3] == ["full precision, PyTorch", "simulation", "simulation, float64"] and len(rows) == 9
        assert all(f"{float(row['top1']):.2f} ± " in out for row in rows.values())
        assert float(rows["simulation"]["top1"]) == pytest.approx(record.metrics["top1"])
        assert float(rows["loaded file"]["difference"]) == 0 and float(rows["loaded file"]["agreement"]) == 100
        for name in ("simulation, float64", "onnxruntime", "OpenVINO"):
            assert 0 <= float(rows[name]["codes_differ"]) < 1 and 0 < float(rows[name]["difference"]) < 1
        assert int(rows["onnxruntime"]["bytes"]) < int(rows["full precision, onnxruntime"]["bytes"]) / 4
        assert rows["OpenVINO"]["packages"].startswith("torch=") and rows["OpenVINO"]["command"]


def test_a_model_saved_later_is_the_one_that_was_measured(record, tmp_path):
    told = saved.save(record.fingerprint, results_of(record), tmp_path / "model", None)
    assert re.fullmatch(r".*/model: [\d,]+ bytes of [\d,]+", told)
    _, prepared = saved.reopen(record.folder)
    hits = 0
    with torch.inference_mode():
        network = load(tmp_path / "model")
        for images, labels in prepared.task.validation():
            hits += int((network(images).argmax(1) == labels).sum())
    assert 100 * hits / 24 == pytest.approx(record.metrics["top1"])


def test_a_run_of_another_device_is_opened_on_the_cpu(record, tmp_path):
    config = (record.folder / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(config.replace("device: auto", "device: cuda:7"))
    settings, prepared = saved.reopen(tmp_path, "cpu")
    assert settings.device == "cpu" and prepared.device == torch.device("cpu")
    with pytest.raises(LampQError, match="cuda:7"):
        saved.reopen(tmp_path)


def test_a_run_of_a_version_with_fewer_keys_is_opened(record, tmp_path, monkeypatch):
    config = yaml.safe_load((record.folder / "config.yaml").read_text())
    del config["effort"]["straight_through_iterations"], config["transform"]
    config["paths"]["cache"] = "of-another-machine"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("LAMPQ_CACHE", str(tmp_path / "mine"))
    settings, _ = saved.reopen(tmp_path)
    assert settings.cache == tmp_path / "mine"
    assert settings.base_quantizer.name == "rtn" and settings.transform.name == "none"


def test_a_run_of_other_weights_or_images_is_not_opened(record, tmp_path):
    for name in ("config.yaml", "identity.json"):
        (tmp_path / name).write_text((record.folder / name).read_text())
    saved.reopen(tmp_path)
    identity = json.loads((tmp_path / "identity.json").read_text())
    for change, told in (
        ({"weights": "other"}, "model.checkpoint="),
        ({"images": {"calibration": {}}}, "dataset.root="),
    ):
        (tmp_path / "identity.json").write_text(json.dumps(identity | change))
        with pytest.raises(LampQError, match=f"^{told}.*: is not what the run .* was computed with"):
            saved.reopen(tmp_path)


def test_a_changed_plan_is_neither_exported_nor_verified(record, tmp_path):
    folder = tmp_path / "runs" / record.fingerprint
    shutil.copytree(record.folder, folder)
    plan = folder / "plan.json"
    plan.write_text(plan.read_text().replace('"weight_bits": 4', '"weight_bits": 3'))
    with pytest.raises(LampQError, match=r"plan\.json has changed since it was written"):
        saved.model_of(record.fingerprint, tmp_path)


def test_a_folder_that_is_none_is_one_line_before_any_work(record, capsys):
    export = ["export", record.fingerprint, "--out", "/dev/null/model.onnx", "--results", str(results_of(record))]
    assert main(export) == 1
    assert capsys.readouterr().err == "error: --out=/dev/null: /dev/null is a file; give a folder\n"


def test_a_plan_by_itself_says_nothing_of_its_model(record, tmp_path):
    BitPlan.read(record.folder / "plan.json").write(tmp_path / "mine.json")
    with pytest.raises(LampQError, match="name a run of them by --like RUN"):
        saved.save(str(tmp_path / "mine.json"), results_of(record), None, None)


def test_other_names_of_files_are_refused(record, tmp_path):
    for to, name in (("onnx", "model.pb"), ("openvino", "model.onnx")):
        pytest.importorskip("openvino")
        with pytest.raises(LampQError, match="ends in"):
            saved.export(record.fingerprint, results_of(record), to, tmp_path / name, 18, False)
