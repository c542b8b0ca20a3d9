"""Detectors through the same bank, plans, allocators and evaluation as classifiers."""

import json
import statistics
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from experiments.measured import Run
from lampq.allocation.clado import Clado
from lampq.allocation.greedy import Greedy
from lampq.allocation.lampq import LampQ
from lampq.allocation.least_score import LeastScore
from lampq.allocation.random_plan import RandomPlan
from lampq.allocation.uniform import Uniform
from lampq.allocation.vt_ptq import VTPTQ
from lampq.bank.quantized_model import QuantizedModel
from lampq.base_quantizers.adalog import AdaLog
from lampq.base_quantizers.aphq_vit import APHQViT
from lampq.base_quantizers.erq import ERQ
from lampq.base_quantizers.fima_q import FimaQ
from lampq.base_quantizers.glf_q import GlfQ
from lampq.base_quantizers.optq import OPTQ
from lampq.base_quantizers.pd_quant import PDQuant
from lampq.base_quantizers.ptq4vit import PTQ4ViT
from lampq.base_quantizers.qdrop import QDrop
from lampq.base_quantizers.repq_vit import RepQViT
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.calibration.observation import Observer
from lampq.datasets.shapes import Shapes
from lampq.errors import LampQError
from lampq.models.detection.pictures import Detections, Images, Instances
from lampq.plan.bit_plan import BitPlan
from lampq.report.detections import draw_detections
from lampq.runs.record import RunRecord
from lampq.sensitivity.fisher import Fisher
from lampq.tasks.classification import ClassificationTask
from lampq.tasks.detection import DetectionTask, image_precision, packed, unpacked
from lampq.tasks.validation import validate
from tests.allocation.budgets import budget as budget_of
from tests.made_up_scenes import MadeUpScenes, detection_search
from tests.small_detectors import detector_adapter
from tests.small_models import vit_adapter

SHORT = {"iterations": 2, "images": 4, "batch_size": 2, "candidates": 32, "rounds": 1}


@pytest.fixture(scope="module")
def adapter():
    return detector_adapter()


@pytest.fixture(scope="module")
def search(adapter, tmp_path_factory):
    return detection_search(adapter, tmp_path_factory.mktemp("scenes"))


def results(search, plan):
    model = search.quantized_model()
    return validate(model, plan, search.task, search.store, search.built_from.identity)


def full_precision(search):
    return BitPlan.full_precision(search.adapter.sites)


def test_the_loss_on_d_is_that_of_single_images_whatever_runs_beside_them(search):
    images, targets = search.task.sample_images, search.task.sample_labels
    expected = torch.cat([search.adapter.losses(images[i : i + 1], targets[i : i + 1], 0) for i in range(len(images))])
    score = search.evaluator.score(full_precision(search))
    torch.testing.assert_close(score.loss, expected.double(), rtol=1e-5, atol=1e-6)
    assert score.accuracy is None and len(set(score.loss.tolist())) == len(images)


def test_a_plan_is_scored_from_its_first_change_on(search):
    budget = budget_of(4)
    plan = Uniform().allocate(search, budget)
    search.bank.calibrate(plan)
    last = next(s.name for s in reversed(search.layers))
    changed = plan.with_bits({last: (2, 2)})
    search.evaluator.set_base(plan)
    quantized = QuantizedModel(search.adapter, search.bank).apply(changed)
    with torch.inference_mode():
        expected = quantized.adapter.losses(search.task.sample_images, search.task.sample_labels, 0)
    score = search.evaluator.score(changed)
    torch.testing.assert_close(score.loss, expected.double(), rtol=1e-4, atol=1e-5)
    assert search.evaluator.score(plan).loss.tolist() != score.loss.tolist()


@pytest.mark.parametrize("quantize", ["detector", "backbone"])
def test_what_is_quantized_beside_the_backbone(tmp_path, quantize):
    search = detection_search(detector_adapter(quantize=quantize), tmp_path)
    plan = Uniform().allocate(search, budget_of(4))
    outside = [s for s in plan.sites if s.type in ("neck", "rpn", "roi")]
    assert bool(outside) is (quantize == "detector") and all(s.bits == (4, 4) for s in outside)
    assert sum(s.allocated for s in plan.sites) == 4 * search.adapter.blocks
    model = QuantizedModel(search.adapter, search.bank).apply(plan).adapter
    kinds = {type(model.module(s.name)).__name__ for s in outside}
    assert kinds == ({"QuantizedConvolution", "QuantizedLinear"} if outside else set())


QUANTIZERS = {
    "rtn": RoundToNearest(),
    "adalog": AdaLog(candidates=64, rounds=1, steps=1),
    "repq_vit": RepQViT(),
    "optq": OPTQ(),
    "erq": ERQ(),
    "qdrop": QDrop(**SHORT),
    "pd_quant": PDQuant(**SHORT),
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_base_quantizer_of_table_4_is_close_at_8_bits_and_further_at_3(tmp_path, adapter, name):
    search = detection_search(adapter, tmp_path, base_quantizer=QUANTIZERS[name], calibration_images=2)
    # The last stage has six tokens an image: on other images, channels leave ranges seen on these, at any bits.
    images = search.task.calibration_images
    errors = []
    with torch.inference_mode():
        before = search.adapter.run(images, stop=search.adapter.segments - 1)
        for bits in (8, 3):
            plan = Uniform().allocate(search, budget_of(bits))
            model = search.quantized_model().apply(plan).adapter
            after = model.run(images, stop=search.adapter.segments - 1)
            pairs = list(zip(after, before, strict=True))
            moved = sum((a.x - b.x).square().sum() for a, b in pairs)
            errors.append((moved / sum(b.x.square().sum() for _, b in pairs)).item())
            detections = search.adapter.run(images[:1])[0], model.run(images[:1])[0]
            assert all(isinstance(found, Detections) for found in detections)
    assert errors[0] < 0.02 and errors[0] < errors[1] / 3, errors


ALLOCATORS = {
    "lampq": LampQ(mu=0.5, beta=2, gamma=4.0, labels="dataset", max_evaluations=2),
    "vt_ptq": VTPTQ(candidates=3),
    "output_fisher": LeastScore("output_fisher"),
    "greedy": Greedy(max_evaluations=3),
    "random": RandomPlan(),
    "clado": Clado(pairs="diagonal"),
}


@pytest.mark.parametrize("name", ALLOCATORS)
def test_every_allocator_keeps_the_budget_of_the_backbone(search, name):
    plan = ALLOCATORS[name].allocate(search, replace(budget_of(4), activation_rule="follow"))
    layers = [s for s in plan.sites if s.allocated]
    sizes = {s.name: s.parameters for s in search.layers}
    spent = sum(Fraction(s.weight_bits) * sizes[s.name] for s in layers)
    assert spent <= 4 * sum(sizes.values())
    assert {s.bits for s in plan.sites if s.type in ("neck", "rpn", "roi")} == {(4, 4)}
    if name == "lampq":
        assert plan.origin["type_scaling"]["measure"] == "loss"
        assert all(swap["accuracy"] is None for swap in plan.origin["swaps"])


def test_fisher_traces_are_those_of_single_images(search):
    traces = Fisher(labels="dataset").traces(search)
    layer = search.adapter.module(search.layers[5].name)
    squares = []
    for number in range(len(search.task.sample_images)):
        layer.weight.requires_grad_(True)
        one = slice(number, number + 1)
        loss = search.task.losses(search.adapter, search.task.sample_images[one], search.task.sample_labels[one])
        (gradient,) = torch.autograd.grad(loss.sum(), layer.weight)
        layer.weight.requires_grad_(False)
        squares.append(gradient.double().square().sum())
    assert traces[search.layers[5].name] == pytest.approx(torch.stack(squares).mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda s: Fisher(labels="sampled").traces(s), "labels=sampled"),
        (
            lambda s: LampQ(mu=0.5, beta=2, gamma=4.0, labels="dataset", drop="accuracy").allocate(s, budget_of(4)),
            "drop",
        ),
        (lambda s: LeastScore("hawq_v2").allocate(s, budget_of(4)), "hawq_v2"),
        (lambda s: LeastScore("mix_qvit").allocate(s, budget_of(4)), "relevance"),
    ],
)
def test_what_has_no_meaning_for_a_detector_is_refused_in_one_line(search, work, said):
    with pytest.raises(LampQError, match=said) as raised:
        work(search)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "method", [PTQ4ViT(), APHQViT(**SHORT), FimaQ(**SHORT), GlfQ(loss="local")], ids=lambda method: method.name
)
def test_a_method_that_needs_class_probabilities_is_refused(adapter, tmp_path, method):
    with pytest.raises(LampQError, match=f"base_quantizer={method.name}"):
        detection_search(adapter, tmp_path, base_quantizer=method)


def test_the_truth_as_prediction_has_an_average_precision_of_100_and_nothing_has_0(search, tmp_path):
    annotations = json.loads(search.task.dataset.annotation_file.read_text())
    images, targets = search.task.dataset.validation_scenes()
    rows = {i["id"]: [a for a in annotations["annotations"] if a["image_id"] == i["id"]] for i in annotations["images"]}
    found = []
    for state, target in zip(images, targets, strict=True):
        own = rows[state.meta["img_id"]]
        boxes = torch.tensor([a["bbox"] for a in own])
        boxes[:, 2:] += boxes[:, :2]
        masks = [{**a["segmentation"], "counts": a["segmentation"]["counts"].encode()} for a in own]
        found.append(Detections(boxes, torch.linspace(1, 0.5, len(own)), target.labels, masks))
    ids, shapes = ([state.meta[key] for state in images] for key in ("img_id", "ori_shape"))
    truth = {**packed(found), "ids": torch.tensor(ids), "shapes": torch.tensor(shapes)}
    nothing = [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), []) for _ in ids]
    empty = {**packed(nothing), "ids": torch.tensor(ids), "shapes": torch.tensor(shapes)}
    metrics = search.task.metrics(truth, empty)
    assert metrics["box_ap"] == metrics["mask_ap"] == metrics["box_ap50"] == pytest.approx(100)
    assert metrics["box_ap_standard_error"] == pytest.approx(0, abs=1e-9)
    assert metrics["box_ap_full_precision"] == 0 and metrics["mask_ap_difference"] == pytest.approx(100)
    # With what is in one image missed, draws with this image differ from those without it.
    half = {**packed([*found[:-1], nothing[0]]), "ids": torch.tensor(ids), "shapes": torch.tensor(shapes)}
    metrics, record = search.task.metrics(half, truth), RunRecord(tmp_path, {}, {})
    record.folder.mkdir(parents=True)
    record.write_rows(search.task.outcomes_file, search.task.outcomes(half, truth))
    kept = Run(record.folder, {}, {}, {}).precision_draws
    lost = [after - before for after, before in zip(kept["mask_ap"], kept["full_precision_mask_ap"], strict=True)]
    assert min(lost) < metrics["mask_ap_difference"] < max(lost) == pytest.approx(0, abs=1e-3)
    assert metrics["mask_ap_difference_standard_error"] == pytest.approx(statistics.stdev(lost), abs=1e-3)
    # Of the first two images alone: the others do not count as missed.
    part = {**packed(found[:2]), "ids": torch.tensor(ids[:2]), "shapes": torch.tensor(shapes[:2])}
    assert search.task.average_precision(part).shown["box_ap"] == pytest.approx(100)


def test_a_data_set_for_another_task_is_refused(adapter):
    with pytest.raises(
        LampQError, match=r"dataset=shapes: .* which does detection; choose dataset=coco or shapes_coco"
    ):
        DetectionTask(adapter, Shapes(), 0, torch.device("cpu"))
    with pytest.raises(LampQError, match="which does classification; choose dataset=imagenet or shapes"):
        ClassificationTask(vit_adapter(), MadeUpScenes(Path()), 0, torch.device("cpu"))


def test_detections_survive_the_store(search):
    results_ = search.task.measure(search.adapter, 0, 4)
    direct = [search.adapter.run(images)[0] for images, _ in search.task.dataset.validation()]
    assert sum(len(found.scores) for found in direct) > 0
    for found, other in zip(direct, unpacked(results_), strict=True):
        assert torch.equal(found.boxes, other.boxes) and torch.equal(found.scores, other.scores)
        assert [m["counts"] for m in found.masks] == [m["counts"] for m in other.masks]
        assert [list(m["size"]) for m in found.masks] == [list(m["size"]) for m in other.masks]
    halves = [search.task.measure(search.adapter, *part) for part in ((0, 1), (1, 4))]
    assert all(torch.equal(torch.cat([half[n] for half in halves]), results_[n]) for n in results_)


def test_precision_of_single_images_may_stand_in_the_place_of_right_and_wrong(tmp_path, adapter, search, monkeypatch):
    monkeypatch.setattr(MadeUpScenes, "judged_by", "ap")
    other = detection_search(adapter, tmp_path)
    assert other.task.identity["sample"] != search.task.identity["sample"]
    images = other.task.sample_images
    found = adapter.run(images)
    # What is found in full precision, taken for the truth, is found with certainty.
    truth = []
    for image, detections in zip(images, found, strict=True):
        scale = torch.tensor([*image.meta["scale_factor"]] * 2)
        truth.append(Instances(detections.boxes * scale, detections.labels, torch.zeros(len(detections.scores), 1, 1)))
    values = [image_precision(*row) for row in zip(images, truth, found, strict=True)]
    assert values == pytest.approx([1.0] * len(images))
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), [])
    assert image_precision(images[0], truth[0], nothing) == 0
    moved = Detections(
        found[0].boxes + 0.25 * (found[0].boxes[:, 2:] - found[0].boxes[:, :2]).repeat(1, 2), *rest(found[0])
    )
    assert 0 <= image_precision(images[0], truth[0], moved) < 0.7
    score = other.evaluator.score(full_precision(other))
    expected = [image_precision(*row) for row in zip(images, other.task.sample_labels, found, strict=True)]
    assert score.correct.tolist() == pytest.approx(expected) and score.accuracy is not None
    torch.testing.assert_close(score.loss, search.evaluator.score(full_precision(search)).loss)


def rest(found):
    return found.scores, found.labels, found.masks


def test_what_both_models_find_is_drawn(search, tmp_path):
    from PIL import Image

    plan = Uniform().allocate(search, budget_of(4))
    own, full = results(search, plan), results(search, full_precision(search))
    draw_detections(search.task.side_by_side(own, full), tmp_path / "detections.png")
    with Image.open(tmp_path / "detections.png") as picture:
        assert picture.width > 500 and len(picture.convert("RGB").getcolors(1 << 24)) > 100


def test_operands_of_images_of_different_sizes_are_the_same_within_any_memory(search, adapter):
    images = search.task.calibration_images
    unlimited, tight = Observer(adapter, lambda: images), Observer(adapter, lambda: images, 1)
    for site in adapter.sites:
        pairs = zip(tight.inputs(site), unlimited.inputs(site), strict=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs) and len(tight._inputs) == 1


def test_images_behave_as_a_tensor_does(search):
    images = search.task.sample_images
    assert [len(part) for part in images.split(4)] == [4, 2] and len(Images.cat(images.split(4))) == 6
    assert images[torch.tensor([2, 0])][0] is images[2] and images[1:3][1] is images[2]
    assert images.nbytes == sum(state.x.nbytes for state in images)
    assert [len(group) for group in images.groups()] == [1] * 6  # the two sizes take turns
    assert [len(group) for group in images[[0, 2, 4, 1]].groups()] == [3, 1]
