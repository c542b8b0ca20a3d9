"""Models of other kinds, and files that are not as they were written."""

import json
import shutil

import pytest
import torch

import lampq
from lampq.artefact.files import DESCRIPTION, TENSORS
from lampq.artefact.loading import load, load_adapter
from lampq.artefact.saving import save
from lampq.bank.quantized_model import QuantizedModel
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.errors import LampQError
from lampq.models.embedded.embedded_classifier import EmbeddedClassifier
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from tests.small_models import images, search_over


def saved(adapter, root, **changes):
    """A model at 3 bits, saved under root: the folder, and what it computes on a few images."""
    workbench = search_over(adapter, root / "store", base_quantizer=RoundToNearest())
    bits = {s.name: Bits(None if s.is_matmul else 3, 3) for s in adapter.sites}
    plan = BitPlan.full_precision(adapter.sites).with_bits(bits | changes)
    workbench.build(plan)
    quantized = workbench.quantized_model().apply(plan).adapter
    save(root / "model", adapter, quantized, plan, {"made": "a test"})
    with torch.no_grad():
        return root / "model", quantized.run(images(adapter, 4))


@pytest.fixture(scope="module", params=["shapes_vit", "shapes_swin"])
def embedded(request, tmp_path_factory):
    adapter = EmbeddedClassifier(request.param).build(torch.device("cpu"))
    full = {"head" if request.param == "shapes_vit" else "head.fc": Bits(None, None)}
    return adapter, *saved(adapter, tmp_path_factory.mktemp(request.param), **full)


def test_an_embedded_model_needs_its_folder_alone(embedded):
    adapter, folder, expected = embedded
    with torch.no_grad():
        assert torch.equal(load(folder)(images(adapter, 4)), expected)


def test_it_is_as_large_as_its_bits_and_says_what_it_is(embedded):
    adapter, folder, _ = embedded
    assert (folder / TENSORS).stat().st_size < 4 * adapter.parameters() / 6
    card = (folder / "README.md").read_text()
    assert adapter.name in card and "| 0 | 3/3 | 3/3 | 3/3 | 3/3 |" in card
    assert load_adapter(folder)[1]["about"] == {"made": "a test"}


def test_weights_have_the_names_of_compressed_tensors(embedded):
    from safetensors.torch import load_file

    _, folder, _ = embedded
    name = next(name for name in json.loads((folder / DESCRIPTION).read_text())["modules"] if name.endswith("fc1"))
    inside = {key.removeprefix(f"{name}.") for key in load_file(folder / TENSORS) if key.startswith(f"{name}.")}
    assert {"weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "bias"} <= inside


def broken(folder, change):
    """What a folder says when it is loaded after a change of its files."""
    copy = folder.parent / "broken"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    change(copy)
    with pytest.raises(LampQError) as error:
        load(copy)
    assert "\n" not in str(error.value)
    return str(error.value)


def rewritten(**values):
    def change(folder):
        path = folder / DESCRIPTION
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def without_a_site(folder):
    path = folder / DESCRIPTION
    described = json.loads(path.read_text())
    described["modules"].popitem()
    path.write_text(json.dumps(described))


CHANGES = {
    "no file": (lambda f: (f / TENSORS).unlink(), "No such file or directory; give the folder of a saved model"),
    "no description": (lambda f: (f / DESCRIPTION).unlink(), "No such file or directory"),
    "cut off": (lambda f: (f / TENSORS).write_bytes((f / TENSORS).read_bytes()[:-9]), "is damaged"),
    "no JSON": (lambda f: (f / DESCRIPTION).write_text("{"), "is damaged"),
    "newer": (rewritten(version=2), "version 2, and this lampq reads 1"),
    "foreign": (rewritten(format="other"), "is not of a model that lampq saved"),
    "another architecture": (rewritten(architecture={"library": "timm", "name": "nothing"}), "timm has no such model"),
    "unknown library": (rewritten(architecture={"library": "x", "name": "y"}), "this version does not know it"),
    "no architecture": (rewritten(architecture=None), "config.json: is damaged"),
    "modules of another kind": (rewritten(modules=["a"]), "config.json: is damaged"),
    "sizes of another kind": (rewritten(input_size="224"), "config.json: is damaged"),
    "no plan": (rewritten(plan=None), "config.json: the plan"),
    "a site left out": (without_a_site, "does not fit its architecture"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_files_are_one_line(embedded, change):
    _, folder, _ = embedded
    make, told = CHANGES[change]
    assert told in broken(folder, make)


def test_a_folder_of_something_else_is_not_overwritten(tmp_path):
    adapter = EmbeddedClassifier("shapes_vit").build(torch.device("cpu"))
    (tmp_path / "thesis.tex").touch()
    plan = BitPlan.full_precision(adapter.sites)
    with pytest.raises(LampQError, match=r"holds thesis.tex, which is no part of a saved model; move it away"):
        save(tmp_path, adapter, QuantizedModel(adapter, None).adapter, plan, {})
    assert lampq.load is load
