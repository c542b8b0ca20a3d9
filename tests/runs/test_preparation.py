"""What jobs of one process share: the model and the images, as long as their files are what they were."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lampq.allocation.uniform import Uniform
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.datasets.imagenet import ImageNet
from lampq.errors import LampQError
from lampq.models.timm_adapters import adapt
from lampq.runs.preparation import prepare
from tests.allocation.budgets import budget
from tests.small_models import VIT_SIDE, vision_transformer
from tests.small_settings import small_settings

CONFIG = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
CPU = torch.device("cpu")


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def job(tmp_path):
    """A job on images and weights in files: call it as often as there are jobs."""
    for index in range(6):
        draw(tmp_path / "images" / ("val" if index % 2 else "train") / "n01440764" / f"{index}.png", index)
    checkpoint = tmp_path / "model.safetensors"
    save_file(vision_transformer(1, num_classes=1000).state_dict(), checkpoint)
    model = SimpleNamespace(name="small", build=lambda device: _built(checkpoint))

    def run(**changes):
        dataset = {"calibration_images": 1, "sample_images": 1, **changes}
        settings = small_settings(
            tmp_path,
            model=model,
            dataset=ImageNet(str(tmp_path / "images"), **dataset),
            base_quantizer=RoundToNearest(),
            allocator=Uniform(),
            budget=budget(),
            resolved={"model": {"checkpoint": str(checkpoint)}, "dataset": dataset},
        )
        return prepare(settings, CPU)

    return run


def _built(checkpoint):
    from safetensors.torch import load_file

    network = vision_transformer(1, num_classes=1000)
    network.load_state_dict(load_file(checkpoint))
    return adapt("small", network, input_size=(3, VIT_SIDE, VIT_SIDE), data_config=CONFIG)


def test_jobs_share_model_and_images_while_nothing_changes(job):
    first = job()
    first.task.identity["calibration"]
    assert job() is first and job(sample_images=2) is not first


@pytest.mark.parametrize("name", ["calibration", "validation"])
def test_a_file_that_changes_between_two_jobs_is_seen(job, tmp_path, name):
    first = job()
    before = first.task.identity[name]
    draw(tmp_path / "images" / first.task.listing(None)[name][0], 99)
    second = job()
    assert second is not first and second.task.identity[name] != before


def test_a_file_that_comes_between_two_jobs_is_seen(job, tmp_path):
    before = job().task.identity["validation"]
    draw(tmp_path / "images" / "val" / "n01440764" / "new.png", 99)
    assert job().task.identity["validation"]["images"] == before["images"] + 1


def test_weights_that_change_between_two_jobs_are_read_again(job, tmp_path):
    before = job().adapter.weights_hash()
    save_file(vision_transformer(1, seed=1, num_classes=1000).state_dict(), tmp_path / "model.safetensors")
    assert job().adapter.weights_hash() != before


def test_digests_lie_in_the_users_cache(job, tmp_path, monkeypatch):
    monkeypatch.setattr("lampq.storage.digests.RECENT", -1.0)
    job().task.identity["validation"]
    kept = "".join(path.read_text() for path in (tmp_path / "cache" / "digests").iterdir())
    assert "val/n01440764/1.png" in kept and "train/" not in kept, "no image is looked at that is not used"


def test_more_images_than_fit_are_refused_before_any_is_read(job, monkeypatch):
    monkeypatch.setattr("lampq.datasets.memory.memory", lambda: 10_000)
    with pytest.raises(LampQError, match=r"^dataset\.batch_size=6: preparing these images takes"):
        job()


def test_what_is_shared_is_said(job, caplog):
    caplog.set_level(logging.INFO)
    job(sample_images=3)
    assert "1 of the 3 images of the sample set D are calibration images" in caplog.text


def test_images_that_hold_the_same_are_said_once(job, tmp_path):
    task = job(sample_images=3).task
    for split, name in (("train", "4"), ("val", "1")):
        draw(tmp_path / "images" / split / "n01440764" / f"{name}.png", 0)
    assert task.repeated() == []
    for name in ("calibration", "sample", "validation"):
        task.identity[name]
    train = tmp_path / "images" / "train"
    assert task.repeated() == [
        f"1 of the images of {train} that are used hold the same as others of them",
        f"1 of the validation images hold the same as images of {train} that are used",
    ]
    assert task.repeated() == []
