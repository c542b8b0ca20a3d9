"""Rows of the benchmark: a saved model in every way that it runs, and a plan that is scored."""

import csv
import re

import pytest
import torch

from experiments import benchmark
from lampq.errors import LampQError
from lampq.models.embedded.embedded_classifier import EmbeddedClassifier
from tests.small_models import vit_adapter


def test_a_saved_model_is_timed_beside_full_precision_in_each_runtime(tmp_path, monkeypatch):
    for package in ("onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    small = EmbeddedClassifier("shapes_vit").build(torch.device("cpu"))
    monkeypatch.setattr(benchmark, "_random_deit_tiny", lambda: small)
    monkeypatch.setattr(benchmark, "SAVED_BITS", (4,))
    monkeypatch.setattr(benchmark, "SAVED_IMAGES", (3,))
    monkeypatch.setattr(benchmark, "SAVED_THREADS", (1,))
    with benchmark.benchmark(tmp_path, ["saved_model"]).open() as file:
        load, *rows = csv.DictReader(file)
    assert load["variant"] == "W4A4, load" and float(load["seconds"]) > 0
    ways = [row["variant"].partition("3 images, 1 threads: ")[2] for row in rows]
    in_pytorch = ["PyTorch, full precision", "PyTorch, simulation", "PyTorch, integers"]
    assert ways[:3] == in_pytorch and set(ways[3:]) == {
        f"{runtime}, {which}" for runtime in ("onnxruntime", "OpenVINO") for which in ("full precision", "quantized")
    }
    seconds = {way: float(row["seconds"]) for way, row in zip(ways, rows, strict=True)}
    for way, row in zip(ways, rows, strict=True):
        full = seconds[f"{way.partition(',')[0]}, full precision"]
        assert float(row["ratio"]) == pytest.approx(full / seconds[way], rel=0.05, abs=0.01)
    assert "onnxruntime=" in rows[0]["packages"] and torch.get_num_threads() == 1


def test_a_plan_is_timed_beside_full_precision_in_the_same_chunks(tmp_path, monkeypatch):
    small = EmbeddedClassifier("shapes_vit").build(torch.device("cpu"))
    monkeypatch.setattr(benchmark, "_deit_tiny", lambda: small)
    with benchmark.benchmark(tmp_path, ["scoring"]).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == [
        f"{model}, {chunk} images at once" for chunk in (8, 48) for model in ("full precision", "AdaLog W3A3")
    ]
    for full, plan in (rows[:2], rows[2:]):
        seconds = float(full["seconds"]), float(plan["seconds"])
        assert float(full["ratio"]) == 1 and min(seconds) > 0
        assert float(plan["ratio"]) == pytest.approx(seconds[0] / seconds[1], rel=0.05, abs=0.01)


def test_a_search_is_timed_beside_equal_bits_with_the_plans_that_it_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "SEARCHES", ("adalog", "lampq_without_update"))
    monkeypatch.setattr(benchmark, "RUN", (*benchmark.RUN, "scale=smoke"))
    with benchmark.benchmark(tmp_path, ["searches"]).open() as file:
        equal, search = csv.DictReader(file)
    assert (equal["ratio"], equal["note"]) == ("1.00", "")
    assert float(search["ratio"]) == pytest.approx(float(equal["seconds"]) / float(search["seconds"]), rel=0.05)
    plans, images = re.fullmatch(r"(\d+) plans scored on (\d+) images", search["note"]).groups()
    assert 1 <= int(plans) <= 20 and int(images) == 64


def test_glf_q_is_timed_by_steps_with_the_memory_that_it_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "SIZES", ("one",))
    monkeypatch.setattr(benchmark, "_random_model", lambda name: vit_adapter(1))
    monkeypatch.setattr(benchmark, "IMAGES", 4)
    with benchmark.benchmark(tmp_path, ["glf_q"]).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == ["one: a step of an MLP", "one: a step of a block"]
    assert all(0 < float(row["note"].removesuffix(" GiB at most")) < 100 for row in rows)


def test_another_name_is_refused(tmp_path):
    with pytest.raises(LampQError, match="--only nothing: no such measurement; there are weight_search"):
        benchmark.benchmark(tmp_path, ["nothing"])
