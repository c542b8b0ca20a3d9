"""Python's door: an own network and own tensors in, a quantized network and its reasons out."""

import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.utils.data import DataLoader, TensorDataset

import lampq
from lampq.allocation.uniform import Uniform
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.plan.budget import Budget
from lampq.quantization import network_name
from lampq.transform.hadamard import Hadamard
from tests.small_models import CLASSES, images, swin, swin_adapter, vision_transformer, vit_adapter

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def network():
    return vision_transformer(2)


@pytest.fixture(scope="module")
def pictures():
    return images(vit_adapter(1), 90)


@pytest.fixture(scope="module")
def classes(network, pictures):
    with torch.no_grad():
        return network(pictures).argmax(1)


@pytest.fixture(scope="module")
def quantized(network, pictures, classes, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    sample = (pictures[8:72], classes[8:72])
    return lampq.quantize(network, pictures[:8], sample, bits=3, base_quantizer="rtn", cache=cache)


def uniform(network, calibration, **changes):
    return lampq.quantize(network, calibration, **{"base_quantizer": "rtn", "allocator": "uniform", **changes})


def test_the_network_is_an_ordinary_module_whose_outputs_are_those_of_the_plan(quantized, network, pictures):
    with torch.no_grad():
        logits = quantized.network(pictures[:5])
    assert logits.shape == (5, CLASSES)
    workbench = quantized._workbench
    assert torch.equal(logits, workbench.quantized_model().apply(quantized.plan).adapter.run(pictures[:5]))
    assert not torch.equal(logits, network(pictures[:5]))


def test_the_given_network_is_not_changed(pictures):
    network = vision_transformer(1).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modules = [type(module) for module in network.modules()]
    uniform(network, pictures[:8])
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    assert [type(module) for module in network.modules()] == modules
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_plan_is_within_its_bits_and_the_summary_says_what_it_costs(quantized):
    assert quantized.costs["average_weight_bits"] <= 3
    text = quantized.summary()
    assert f"{quantized.costs['average_weight_bits']:.2f} weight bits" in text
    assert "on D: top-1" in text and "fc2" in text and "simulated" in text


def test_a_rotated_network_is_searched_saved_and_told_of(network, pictures, classes, tmp_path):
    sample = (pictures[8:72], classes[8:72])
    options = {"bits": 3, "seed": 4, "base_quantizer": "rtn", "allocator": "lampq", "cache": tmp_path / "cache"}
    q = lampq.quantize(network, pictures[:8], sample, transform="hadamard", **options)
    adapter = q._workbench.adapter
    assert adapter.transform == Hadamard(seed=4).identity, "the signs follow the seed"
    with torch.no_grad():
        torch.testing.assert_close(adapter.run(pictures[:5]), network(pictures[:5]), rtol=1e-4, atol=1e-4)
        logits = q.network(pictures[:5])
    assert q.costs["average_weight_bits"] <= 3 and len(set(q.plan.layer_bits().values())) > 1
    told = "transformed before anything was quantized: hadamard (seed=4 residual=True heads=True)"
    assert told in q.summary()
    q.save(tmp_path / "model")
    assert told in (tmp_path / "model" / "README.md").read_text()
    with torch.no_grad():
        assert torch.equal(lampq.load(tmp_path / "model", network=vision_transformer(2, seed=9))(pictures[:5]), logits)
    given = lampq.quantize(network, pictures[:8], sample, transform=Hadamard(seed=4), **options)
    assert given.plan == q.plan


def test_a_layer_is_explained_by_itself(quantized):
    text = quantized.explain("blocks.0.attn.qkv")
    assert [line.split()[0] for line in text.splitlines() if line.startswith("blocks")] == ["blocks.0.attn.qkv"]
    with pytest.raises(lampq.LampQError, match=r"did you mean blocks.0.attn.qkv"):
        quantized.explain("blocks.0.attn.qvk")


def test_evaluation_is_paired_with_full_precision_on_the_same_images(quantized, pictures, classes):
    loader = DataLoader(TensorDataset(pictures[72:], classes[72:]), batch_size=7)
    found = quantized.evaluate(loader)
    assert found["images"] == 18 and found["top1_full_precision"] == 100
    assert found == quantized.evaluate((pictures[72:], classes[72:]))
    with torch.no_grad():
        right = (quantized.network(pictures[72:]).argmax(1) == classes[72:]).double().mean().item()
    assert found["top1"] == pytest.approx(100 * right)


def test_names_and_objects_choose_the_same(network, pictures):
    by_name = uniform(network, pictures[:8], bits=4)
    budget = Budget(Fraction(4), Fraction(4), (4,), "fixed", (4, 4), "target")
    by_object = uniform(
        network, pictures[:8], base_quantizer=RoundToNearest(), allocator=Uniform(), budget=budget, bits=8
    )
    assert by_name.plan.key() == by_object.plan.key()


def test_overrides_are_those_of_the_command_line(network, pictures):
    plan = uniform(network, pictures[:8], overrides=["activation_bits=8"]).plan
    assert plan["blocks.0.mlp.fc1"].bits == (3, 8)


def test_bits_are_chosen_for_what_allocate_says(network, pictures, classes):
    sample = (pictures[8:72], classes[8:72])
    given = {"sample": sample, "base_quantizer": "rtn", "allocator": "output_fisher", "budget": "bops"}
    layers, everything = (lampq.quantize(network, pictures[:8], **given, allocate=a) for a in ("layers", "all"))
    assert everything.plan.key() != layers.plan.key() and everything.costs["bops"] <= 1.02 * layers.costs["bops"]
    assert "head" in everything.summary() and "blocks.0.attn.qk" in everything.explain("blocks.0.attn.qk")
    for text in (everything.summary(), everything.explain()):
        assert f"attention operands {everything.costs['average_operand_bits']:.2f}" in text


def test_a_loader_gives_the_same_as_its_tensors(network, pictures, quantized):
    loader = DataLoader(TensorDataset(pictures[:8], torch.zeros(8)), batch_size=3)
    one, other = uniform(network, loader), uniform(network, pictures[:8])
    assert torch.equal(one.network(pictures[:4]), other.network(pictures[:4]))


def test_what_a_method_is_given_is_observed_in_its_precision(network, pictures):
    quick = ["effort=smoke", "base_quantizer.precision=float64"]
    workbench = uniform(network, pictures[:8], base_quantizer="adalog", overrides=quick)._workbench
    (seen,) = workbench.bank._observer.inputs(workbench.layers[0])
    assert seen.dtype == torch.float64


def test_a_swin_and_a_method_that_quantizes_tensors(pictures):
    batch = images(swin_adapter(), 8)
    assert uniform(swin(), batch).network(batch[:2]).shape == (2, CLASSES)
    network = uniform(vision_transformer(1), pictures[:8], base_quantizer="psaq_vit").network
    assert network(pictures[:2]).shape == (2, CLASSES)


def test_what_was_computed_is_known_by_weights_architecture_and_images(network, pictures, tmp_path):
    def entries(network, calibration):
        uniform(network, calibration, cache=tmp_path)
        return len(list((tmp_path / "bank").rglob("*.safetensors")))

    first = entries(network, pictures[:8])
    assert entries(network, pictures[:8]) == first
    assert entries(network, pictures[1:9]) == 2 * first
    assert entries(vision_transformer(2, seed=1), pictures[:8]) == 3 * first


def test_two_architectures_with_the_same_weights_have_two_names():
    assert network_name(vision_transformer(1)) == network_name(vision_transformer(1, seed=3))
    assert network_name(vision_transformer(1)) != network_name(vision_transformer(1, num_heads=2))


class Doubled(VisionTransformer):
    def forward(self, x):
        return 2 * super().forward(x)


WRONG = {
    "no supported network": ({"network": torch.nn.Linear(3, 3)}, "Linear is not supported"),
    "no network": ({"network": "deit_tiny"}, "must be a network with weights"),
    "a forward pass of its own": (
        {"network": Doubled(img_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=3, num_classes=CLASSES)},
        "its forward pass does something else",
    ),
    "bytes": ({"calibration": torch.zeros(8, 3, 16, 16, dtype=torch.uint8)}, "normalised, in float32"),
    "another size": ({"calibration": torch.zeros(8, 3, 20, 20)}, "does not take images [3, 20, 20]"),
    "no images": ({"calibration": torch.zeros(0, 3, 16, 16)}, "calibration: has shape"),
    "no tensor": ({"calibration": 3}, "calibration=int: must be a tensor"),
    "not finite": ({"calibration": torch.full((2, 3, 16, 16), float("nan"))}, "no finite numbers"),
    "a search without D": ({"allocator": "lampq"}, "sample=None: allocator=lampq"),
    "a class too many": (
        {"sample": (torch.zeros(4, 3, 16, 16), torch.full((4,), CLASSES))},
        f"class {CLASSES}, the network knows 0 to {CLASSES - 1}",
    ),
    "classes too few": ({"sample": (torch.zeros(4, 3, 16, 16), torch.zeros(3).long())}, "one whole number for each"),
    "an unknown name": ({"base_quantizer": "adalg"}, "did you mean adalog"),
    "an unknown key": ({"overrides": ["gamma=3"]}, "did you mean lampq.gamma"),
    "overrides that are no list": ({"overrides": "lampq.gamma=6"}, "must be a list of texts"),
    "overrides that are no texts": ({"overrides": [3]}, "must be a list of texts"),
    "no overrides": ({"overrides": None}, "must be a list of texts"),
    "no device": ({"device": "cdua"}, "device=cdua: must be auto, cpu, cuda or cuda:N; did you mean cuda?"),
    "impossible bits": ({"bits": 0}, "bits=0"),
    "what a run alone has": ({"overrides": ["dataset.calibration_images=8"]}, "has no effect here"),
    "a key of an object": (
        {"base_quantizer": RoundToNearest(), "overrides": ["base_quantizer.rounds=3"]},
        "has no effect on a base_quantizer given as an object",
    ),
    "a key of a budget": (
        {"budget": Budget(Fraction(4), Fraction(4), (4,), "fixed", (4, 4), "target"), "overrides": ["ties=modules"]},
        "has no effect on a budget given as an object",
    ),
    "more images than D has": (
        {
            "allocator": "lampq",
            "sample": (torch.zeros(4, 3, 16, 16), torch.zeros(4).long()),
            "overrides": ["evaluation_images=5"],
        },
        "evaluation_images=5: D has 4 images",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line(case, network, pictures):
    changes, says = WRONG[case]
    with pytest.raises(lampq.LampQError) as caught:
        uniform(**{"network": network, "calibration": pictures[:8], **changes})
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_mistakes_with_what_came_out_are_one_line(quantized, network, pictures, classes, tmp_path):
    for data in ((pictures, classes[:5]), (pictures[:1], classes[0])):
        with pytest.raises(lampq.LampQError, match=r"^evaluate: classes have shape .*; give one whole number"):
            quantized.evaluate(data)
    (tmp_path / "file").touch()
    with pytest.raises(lampq.LampQError, match=r"cannot be written \(Not a directory\); give another folder"):
        quantized.save(tmp_path / "file" / "model")
    with pytest.raises(lampq.LampQError, match=r"^folder=null: must be the path"):
        quantized.save(None)
    with pytest.raises(lampq.LampQError, match=r"^folder=null: must be the path"):
        lampq.load(None)
    quantized.save(tmp_path / "model")
    with pytest.raises(lampq.LampQError, match="must be a network, for example MyViT"):
        lampq.load(tmp_path / "model", network=type(network))


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, elsewhere = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.S)
    space, other = {}, {}
    exec(code, space)
    assert (tmp_path / "plan.json").is_file()
    assert space["logits"].shape == (4, 7)
    assert "weight bits on average" in capsys.readouterr().out
    exec(elsewhere, other)
    with torch.no_grad():
        expected = space["q"].network(other["images"])
    assert torch.equal(other["logits"], expected) and not torch.equal(other["network"](other["images"]), expected)
    assert torch.equal(other["classes"], expected.argmax(1))
    with pytest.raises(lampq.LampQError, match="give one of the same"):
        lampq.load("model", network=vision_transformer())


@pytest.mark.parametrize("name", lampq.__all__)
def test_the_package_gives_what_it_names(name):
    assert getattr(lampq, name).__name__ == name
