"""A saved model on data of one's choice: nothing but its folder is needed."""

import pytest
import torch

from experiments.__main__ import main
from experiments.evaluate import evaluate
from lampq.artefact.integer import IntegerLinear
from lampq.artefact.loading import load
from lampq.artefact.saving import save
from lampq.bank.quantized_model import QuantizedModel
from lampq.datasets.shapes import Shapes
from lampq.errors import LampQError
from lampq.models.embedded.embedded_classifier import EmbeddedClassifier
from lampq.plan.bit_plan import BitPlan
from tests.artefact.test_loading import saved


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    adapter = EmbeddedClassifier("shapes_vit").build(torch.device("cpu"))
    return saved(adapter, tmp_path_factory.mktemp("vit"))[0]


@pytest.fixture
def here(tmp_path):
    return [f"paths.cache={tmp_path}/cache"]


def test_the_simulated_model_is_as_often_right_as_the_loaded_one(folder, here):
    network, hits = load(folder), []
    with torch.inference_mode():
        for images, labels in Shapes(validation_images=70).validation():
            hits += (network(images).argmax(1) == labels).double()
    top1, error = 100 * torch.stack(hits).mean(), 100 * torch.stack(hits).std() / 70**0.5
    told = evaluate(folder, ["dataset.validation_images=70", *here])
    assert told == f"{folder}: top-1 {top1:.2f} ± {error:.2f} % on 70 images of shapes, simulated"


def test_integers_are_computed_where_they_are_asked_for(folder, here, monkeypatch, capsys):
    calls, forward = [], IntegerLinear.forward
    monkeypatch.setattr(IntegerLinear, "forward", lambda self, x: calls.append(self) or forward(self, x))
    asked = ["evaluate", str(folder), "dataset.validation_images=10", *here]
    assert main(asked) == 0 and not calls
    assert main([*asked, "--execute", "integer"]) == 0 and calls
    assert [line.rpartition(", ")[2] for line in capsys.readouterr().out.splitlines()] == ["simulated", "integer"]


def test_a_detector_has_average_precisions(tmp_path):
    pytest.importorskip("mmdet")
    from lampq.models.embedded.embedded_detector import EmbeddedDetector

    adapter = EmbeddedDetector("shapes_mask_rcnn").build(torch.device("cpu"))
    plan = BitPlan.full_precision(adapter.sites)
    save(tmp_path / "model", adapter, QuantizedModel(adapter, None).apply(plan).adapter, plan, {})
    told = evaluate(tmp_path / "model", ["dataset=shapes_coco", "dataset.validation_images=4", "bank=fresh"])
    box, mask = (float(told.partition(f"{name} ")[2].split()[0]) for name in ("AP box", "AP mask"))
    assert box > 20 and mask > 20 and "on 4 images of shapes_coco" in told
    with pytest.raises(LampQError, match="dataset=shapes: does not go with shapes_mask_rcnn, which does detection"):
        evaluate(tmp_path / "model", [])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["bits=4"], "bits=4: has no effect on a saved model"),
        (["model=deit_tiny"], "model=deit_tiny: has no effect on a saved model"),
        (["dataset=shaeps"], "dataset=shaeps: .*shapes"),
        (["dataset=imagenet"], "dataset.root is missing"),
        (["dataset.batch_size=0"], "dataset.batch_size=0"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(overrides, told, folder, capsys):
    assert main(["evaluate", str(folder), *overrides]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    with pytest.raises(LampQError, match=told):
        raise LampQError(line)


def test_a_folder_of_no_model_is_one_line(tmp_path):
    with pytest.raises(LampQError, match="give the folder of a saved model"):
        evaluate(tmp_path / "nothing", [])
