"""timm models by name: from a file, from timm's download cache, and what is said when neither is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from lampq.errors import LampQError
from lampq.models.timm_classifier import TimmClassifier

CPU = torch.device("cpu")
NAME = "deit_tiny_patch16_224.fb_in1k"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return timm.create_model(NAME, pretrained=False).eval()


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path, monkeypatch):
    """No network (tests/conftest.py) and nothing downloaded before; huggingface_hub reads its folder when used."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def refused(classifier):
    with pytest.raises(LampQError) as caught:
        classifier.build(CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def equal(adapter, network):
    """The same logits: the adapter's attention is no longer timm's, so equal up to rounding."""
    picture = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return torch.allclose(adapter.run(picture), network(picture), atol=1e-5)


def test_a_file_gives_the_weights(tmp_path, network):
    torch.save({"model": network.state_dict()}, tmp_path / "deit.pth")
    adapter = TimmClassifier(NAME, str(tmp_path / "deit.pth"), published_top1=72.21).build(CPU)
    assert adapter.name == NAME and adapter.published_top1 == 72.21 and adapter.input_size == (3, 224, 224)
    assert adapter.data_config["interpolation"] == "bicubic" and adapter.data_config["crop_pct"] == 0.9
    assert len([site for site in adapter.sites if site.allocated]) == 48
    assert equal(adapter, network)


def test_a_file_of_another_model_is_refused(tmp_path):
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=10).state_dict(), tmp_path / "other.pth")
    assert "head" in refused(TimmClassifier(NAME, str(tmp_path / "other.pth")))


def test_weights_of_another_size_are_resized_only_where_asked_for(tmp_path):
    path = str(tmp_path / "larger.pth")
    torch.save(timm.create_model(NAME, img_size=256).state_dict(), path)
    assert "pos_embed [1, 257, 192] would have to become [1, 197, 192]" in refused(TimmClassifier(NAME, path))
    assert TimmClassifier(NAME, path, resize_weights=True).build(CPU)


@pytest.mark.parametrize("value", [3, ["a"], ""])
def test_a_checkpoint_that_is_no_path_is_refused(value):
    with pytest.raises(LampQError, match=r"model\.checkpoint="):
        TimmClassifier(NAME, value)


def test_without_network_a_line_says_what_to_do():
    message = refused(TimmClassifier(NAME))
    assert NAME in message and "could not be downloaded" in message and "model.checkpoint=FILE" in message


def test_timms_download_cache_is_used(empty_hub_cache, network):
    repository, commit = empty_hub_cache / f"models--timm--{NAME}", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    save_file(network.state_dict(), repository / "snapshots" / commit / "model.safetensors")
    assert equal(TimmClassifier(NAME).build(CPU), network)


@pytest.mark.slow
def test_a_fresh_process_without_network_and_cache_ends_in_one_line(tmp_path):
    """As a user meets it: the offline switch in the environment, no patched constants."""
    code = (
        "import torch; from lampq.errors import LampQError; from lampq.models.timm_classifier import TimmClassifier\n"
        f"try: TimmClassifier('{NAME}').build(torch.device('cpu'))\n"
        "except LampQError as error: print(error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    environment.pop("HF_HUB_CACHE", None)
    root = Path(__file__).resolve().parents[2]
    answer = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True)
    assert answer.stdout.count("\n") == 1 and "could not be downloaded" in answer.stdout, answer.stderr


def test_unknown_names_are_refused():
    assert "timm has no such model" in refused(TimmClassifier("deit_tinny_patch16_224"))
    assert "choose from deit_tiny_patch16_224.fb_in1k" in refused(TimmClassifier("deit_tiny_patch16_224.fb_in2k"))
    assert "timm has no weights for it" in refused(TimmClassifier("vit_base_patch32_plus_256"))


def test_unsupported_architectures_are_refused(tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.pth")
    assert "VisionTransformer or SwinTransformer" in refused(
        TimmClassifier("test_resnet", str(tmp_path / "resnet.pth"))
    )
