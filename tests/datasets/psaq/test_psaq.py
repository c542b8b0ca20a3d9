"""Images made from the model as a data set: which they are, what they depend on, no real one opened early."""

import csv
import functools
import json
import re
import time
from dataclasses import replace

import hydra
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import lampq.datasets.imagenet as imagenet
import lampq.datasets.psaq.image_batch as image_batch
import lampq.datasets.shapes as shapes
import lampq.pipeline
from lampq.configuration.settings import check, resolved
from lampq.datasets.imagenet import ImageNet
from lampq.datasets.psaq.psaq import PSAQ
from lampq.errors import LampQError
from lampq.launch.command_line import config_folder
from lampq.models.embedded.embedded_classifier import EmbeddedClassifier
from lampq.models.timm_adapters import adapt
from lampq.report.synthesis import show_synthesis
from lampq.storage.store import Store
from tests.datasets.identities import identities
from tests.small_models import swin, vision_transformer

SIDE = shapes.IMAGE_SIZE
QUICK = {"images": 6, "images_per_batch": 4, "calibration_images": 3, "sample_images": 5, "steps": 1}


@functools.cache
def composed(*overrides):
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        return hydra.compose("config", overrides=["dataset=psaq", *overrides])


def settings(**changes):
    values = resolved(composed())["dataset"]
    values.pop("_target_")
    return {**values, **QUICK, **changes}


@functools.cache
def adapter(kind="vit", classes=100, seed=0):
    network = {
        "vit": lambda: vision_transformer(1, seed, img_size=SIDE, patch_size=8, num_classes=classes),
        "swin": lambda: swin(seed, img_size=SIDE, num_classes=classes),
    }[kind]()
    config = {"mean": shapes.MEAN, "std": shapes.STD}
    return adapt(f"small_{kind}", network, input_size=(3, SIDE, SIDE), data_config=config)


def bound(model=None, **changes):
    data = PSAQ(**settings(**changes))
    data.bind(model or adapter())
    return data


def images_of(seed=0, model=None, **changes):
    return bound(model, **changes).calibration(seed)


@pytest.fixture
def steps(monkeypatch):
    """The steps that were computed."""
    taken = []
    measure = image_batch.total_variation
    monkeypatch.setattr(image_batch, "total_variation", lambda images: taken.append(len(images)) or measure(images))
    return taken


@pytest.fixture(autouse=True)
def no_figures(request, monkeypatch):
    """Drawing takes longer than the runs: only the test of what is shown draws."""
    if "shown" not in request.node.name:
        monkeypatch.setattr("lampq.report.synthesis.draw_synthesis", lambda rows, path: path.touch())
        monkeypatch.setattr("lampq.report.run_figure.draw_bit_allocation", lambda plan, path, costs: path.touch())


# Which images


def test_calibration_images_and_d_are_the_first_of_one_row():
    data = bound()
    images, labels = data.sample(0)
    assert images.shape == (5, 3, SIDE, SIDE) and images.dtype == torch.float32
    assert labels.shape == (5,) and labels.dtype == torch.int64 and labels.max() < 100
    assert torch.equal(data.calibration(0), images[:3]) and torch.equal(data.training(0, 6)[:5], images)
    assert len({image.numpy().tobytes() for image in data.training(0, 6)}) == 6
    low, high = (
        (0 - torch.tensor(shapes.MEAN)) / torch.tensor(shapes.STD),
        (1 - torch.tensor(shapes.MEAN)) / torch.tensor(shapes.STD),
    )
    for channel in range(3):
        assert low[channel] - 1e-6 <= images[:, channel].min() and images[:, channel].max() <= high[channel] + 1e-6


def test_more_images_come_in_batches_and_the_last_is_smaller(steps):
    bound(jitter=[15]).sample(0)
    assert steps == [4, 2]


def test_only_the_batches_that_are_used_are_made(steps):
    bound(jitter=[15]).calibration(0)
    assert steps == [4]


def test_a_batch_does_not_depend_on_how_many_follow():
    assert torch.equal(images_of(images=4, sample_images=3), images_of(images=12))


def test_the_seed_decides():
    assert torch.equal(images_of(), images_of())
    assert not torch.equal(images_of(), images_of(seed=1))
    labels = [bound().sample(seed)[1].tolist() for seed in (0, 1)]
    assert labels[0] != labels[1]


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 1},
        {"warmup": 0.9},
        {"jitter": [15]},
        {"flip": 1.0},
        {"learning_rate": 0.3},
        {"betas": [0.9, 0.9]},
        {"entropy_weight": 0},
        {"class_weight": 0},
        {"smoothness_weight": 0},
        {"smoothness": [50000, 50000]},
        {"bandwidth": 0.1},
        {"density_points": 20},
        {"images_per_batch": 3},
        {"source": "noise"},
        {"source": "real"},
    ],
    ids=str,
)
def test_every_option_changes_the_images_and_their_identity(change):
    plain, changed = bound(steps=2), bound(**{"steps": 2, **change})
    assert plain.identity("calibration", 0) != changed.identity("calibration", 0)
    assert not torch.equal(plain.calibration(0), changed.calibration(0))


def test_counts():
    assert [len(bound(calibration_images=n).calibration(0)) for n in (1, 6, 9)] == [1, 6, 6]
    assert [len(bound(sample_images=n).sample(0)[1]) for n in (2, 9)] == [2, 6]


def test_which_tokens_are_dropped_matters_for_windows_only():
    for kind, differs in (("vit", False), ("swin", True)):
        right, literal = (images_of(model=adapter(kind), dropped_tokens=which) for which in ("class", "first"))
        assert torch.equal(right, literal) != differs


def test_the_learning_rate_is_the_published_one_of_the_architecture():
    for kind, rate in (("vit", 0.20), ("swin", 0.25)):
        assert torch.equal(images_of(model=adapter(kind)), images_of(model=adapter(kind), learning_rate=rate))


def test_identity_covers_model_settings_and_seed():
    base = identities(bound())
    assert json.loads(json.dumps(base)) == json.loads(json.dumps(identities(bound())))
    for other in (identities(bound(), 1), identities(bound(adapter(seed=1))), identities(bound(steps=2))):
        assert other["calibration"] != base["calibration"] and other["sample"] != base["sample"]
        assert other["validation"] == base["validation"]
    again = identities(bound(batch_size=7, workers=1, validation_images=9))
    assert again["calibration"] == base["calibration"] and again["sample"] == base["sample"]
    assert bound(images=40).identity("calibration", 0) == base["calibration"]


# Controls


def test_noise_is_what_the_images_start_from_as_colours():
    noise = bound(source="noise")
    data = bound(learning_rate=1e-30)
    torch.testing.assert_close(noise.training(0, 6), data.training(0, 6), rtol=0, atol=0)
    images, labels = noise.sample(0)
    assert torch.equal(labels, adapter().run(images).argmax(1))


def test_real_images_are_the_training_images_of_the_real_data_set():
    real, same = bound(source="real"), shapes.Shapes(3, 5)
    assert torch.equal(real.calibration(0), same.calibration(0))
    for mine, theirs in zip(real.sample(0), same.sample(0), strict=True):
        assert torch.equal(mine, theirs)
    assert real.identity("sample", 0) == same.identity("sample", 0)
    assert torch.equal(real.training(0, 4), same.training(0, 4))
    assert real.identity("training", 0, 4) == same.identity("training", 0, 4)


def test_sources_say_what_they_are():
    assert [bound(source=source).name for source in ("psaq", "noise", "real")] == ["psaq", "psaq, noise", "psaq, real"]
    assert "none is real" in bound().notes()[0] and "real" in bound(source="real").notes()[0]
    notes = bound(sample_images=1024).notes()
    assert notes[1] == "the sample set D has 6 images, all there are (dataset.images), instead of 1024"
    listing = bound().listing(2)
    assert listing["calibration"] == ["psaq/seed2/0", "psaq/seed2/1", "psaq/seed2/2"] and len(listing["sample"]) == 5
    assert len(listing["validation"]) == bound().validation_count == 4000


def test_validation_images_are_those_of_the_real_data_set():
    data, same = bound(validation_images=5, batch_size=2), shapes.Shapes(validation_images=5, batch_size=2)
    assert data.identity("validation", 0) == same.identity("validation", 0)
    for mine, theirs in zip(data.validation(2), same.validation(2), strict=True):
        assert torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])
    assert data.full_validation_images == same.full_validation_images


# The store and the run's folder


def test_images_are_kept_and_shown(tmp_path, steps):
    data = bound(jitter=[15])
    show_synthesis(data.make(0, Store(tmp_path / "cache"), True, None), tmp_path / "run")
    assert steps == [4, 2]
    shown = tmp_path / "run" / "synthetic_images"
    assert sorted(path.name for path in shown.iterdir()) == [
        "batch0.png",
        "batch0.safetensors",
        "batch1.png",
        "batch1.safetensors",
    ]
    assert len(list((tmp_path / "cache" / "synthesis").rglob("*.png"))) == 2
    assert torch.equal(load_file(shown / "batch0.safetensors")["images"][:3], data.calibration(0))
    pixels = np.asarray(Image.open(shown / "batch0.png"))[1:120:3, 1:120:3]
    colours = (
        data.calibration(0)[0] * torch.tensor(shapes.STD)[:, None, None] + torch.tensor(shapes.MEAN)[:, None, None]
    )
    assert np.abs(pixels - 255 * colours.permute(1, 2, 0).numpy()).max() <= 0.51
    with (tmp_path / "run" / "synthesis.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["batch"], row["step"]) for row in rows] == [("0", "0"), ("1", "0")]
    assert (tmp_path / "run" / "synthesis.png").is_file()

    again = bound(jitter=[15])
    show_synthesis(again.make(0, Store(tmp_path / "cache"), True, None), tmp_path / "other")
    assert steps == [4, 2] and torch.equal(again.sample(0)[0], data.sample(0)[0])
    assert (tmp_path / "other" / "synthetic_images" / "batch1.png").is_file()


def test_what_a_run_needs_is_made(tmp_path):
    data = bound(images_per_batch=1)
    assert [len(data.make(0, Store(tmp_path), *of)) for of in ((False, None), (True, None), (False, 6))] == [3, 5, 6]


@pytest.mark.parametrize("source", ["noise", "real"])
def test_controls_are_not_written(tmp_path, source):
    show_synthesis(bound(source=source).make(0, Store(tmp_path / "cache"), True, None), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


class Killed(BaseException):
    """Ends a process."""


@pytest.mark.parametrize("interval", [0, 60], ids=["inside a batch", "between batches"])
def test_after_a_kill_only_what_is_missing_is_made(tmp_path, monkeypatch, interval):
    whole = bound(steps=3).sample(0)
    monkeypatch.setattr(image_batch, "SECONDS_BETWEEN_SAVES", interval)
    measure, taken = image_batch.total_variation, []

    def killed(images):
        taken.append(len(images))
        if len(taken) == 10:  # the fourth of six steps of the second batch
            raise Killed
        return measure(images)

    monkeypatch.setattr(image_batch, "total_variation", killed)
    with pytest.raises(Killed):
        bound(steps=3).make(0, Store(tmp_path / "cache"), True, None)
    data = bound(steps=3)
    data.make(0, Store(tmp_path / "cache"), True, None)
    assert len(taken) == 10 + (3 if interval == 0 else 6)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(data.sample(0), whole, strict=True))


# Whole runs


class Model:
    """What `model=...` constructs."""

    name = "small"

    def __init__(self, built):
        self._built = built

    def build(self, device):
        return self._built


@pytest.fixture
def pictures(tmp_path):
    """A folder of ImageNet with validation images only."""
    for index, wordnet_id in enumerate(("n01440764", "n01443537", "n02123045")):
        folder = tmp_path / "imagenet" / "val" / wordnet_id
        folder.mkdir(parents=True)
        noise = np.random.default_rng(index).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "a.png")
    return tmp_path / "imagenet"


def run_with(tmp_path, model, *overrides, **changes):
    changes = {"validation_images": 3, "jitter": "[15]", **QUICK, **changes}
    options = [f"dataset.{key}={value}" for key, value in changes.items()]
    options += [f"paths.{name}={tmp_path / name}" for name in ("results", "cache")]
    chosen = check(composed("base_quantizer=rtn", "bits=8", "baseline=none", "max_evaluations=1", *overrides, *options))
    return lampq.pipeline.run(replace(chosen, model=Model(model), resolved={"bits": 8}))


def test_real_images_are_known_by_what_is_in_them(pictures):
    def identity():
        return identities(bound(adapter(classes=1000), root=str(pictures), validation_images=None))

    before = identity()
    path = next(pictures.glob("val/*/*"))
    Image.new("RGB", (50, 60)).save(path)
    assert [name for name, known in identity().items() if before[name] != known] == ["validation"]


@pytest.mark.parametrize("source", ["psaq", "noise"])
@pytest.mark.parametrize("data", ["imagenet", "shapes"])
def test_no_real_image_is_opened_before_the_last_evaluation(tmp_path, pictures, monkeypatch, source, data):
    events = []
    decoding, drawing, validate = imagenet.decode, shapes.generate_shapes, lampq.pipeline.validate
    monkeypatch.setattr(imagenet, "decode", lambda path, *rest: events.append("real") or decoding(path, *rest))
    monkeypatch.setattr(shapes, "generate_shapes", lambda *a, **k: events.append("real") or drawing(*a, **k))
    monkeypatch.setattr(lampq.pipeline, "validate", lambda *given: events.append("evaluation") or validate(*given))
    model = adapter(classes=1000 if data == "imagenet" else 100)
    root = {"root": pictures} if data == "imagenet" else {}
    (record,) = run_with(tmp_path, model, "allocator=lampq", source=source, **root)
    assert events[0] == "evaluation" and "real" in events
    assert record.metrics["images"] == 3 and record.metrics["sample_images"] == 5
    assert record.metrics["dataset"] == bound(source=source).name
    assert (record.folder / "synthetic_images").is_dir() == (source == "psaq")
    assert json.loads((record.folder / "images.json").read_text())["sample"][4] == f"{source}/seed0/4"


def test_a_uniform_run_makes_its_calibration_images_only(tmp_path, steps):
    (record,) = run_with(tmp_path, adapter(), "allocator=uniform")
    assert steps == [4] and [path.name for path in (record.folder / "synthetic_images").glob("*.png")] == ["batch0.png"]
    run_with(tmp_path, adapter(), "allocator=uniform", "force=true")
    assert steps == [4]


def test_a_measurement_of_single_components_makes_d(tmp_path, steps):
    (record,) = run_with(tmp_path, adapter(), "sensitivity=components")
    assert steps == [4, 2] and record.metrics["sample_images"] == 5


def test_the_cost_of_images_counts(tmp_path, monkeypatch):
    def slow(*given):
        time.sleep(0.5)
        return image_batch.make_batch(*given)

    monkeypatch.setattr("lampq.datasets.psaq.psaq.make_batch", slow)
    (first,) = run_with(tmp_path, adapter(), "allocator=uniform")
    assert first.metrics["seconds_total"] >= 0.5
    (again,) = run_with(tmp_path, adapter(), "allocator=uniform", "force=true")
    assert again.metrics["seconds_cold"] - again.metrics["seconds_total"] >= 0.5


@pytest.mark.parametrize("name", ["shapes_vit", "shapes_swin"])
def test_embedded_models_from_the_command_line(run, name):
    arguments = ["effort=smoke", "bits=8", "base_quantizer=rtn", "allocator=uniform", "dataset.steps=1"]
    arguments += ["dataset.images=2", "dataset.validation_images=20"]
    status, out, _ = run(f"model={name}", "dataset=psaq", *arguments)
    assert status == 0 and "full precision" in out


def test_presets():
    found = {}
    for effort in ("published", "cpu", "smoke"):
        data = resolved(composed(f"effort={effort}"))["dataset"]
        found[effort] = (data["images"], data["steps"], len(data["jitter"]))
    assert found["published"] == (32, 500, 2) and found["cpu"] == (128, 100, 2)
    assert found["smoke"][0] * found["smoke"][1] <= 32 * 10


# Mistakes


def test_the_models_size_must_fit():
    with pytest.raises(LampQError, match=r"^dataset\.root=null: .* small_vit does not know; add dataset\.root="):
        PSAQ(**settings()).bind(adapt("small_vit", vision_transformer(1), input_size=(3, 16, 16)))


def test_more_training_images_than_are_made():
    with pytest.raises(LampQError, match=r"^base_quantizer\.images=7: dataset\.images=6 are made"):
        bound().identity("training", 0, 7)


def test_folders_of_real_images(pictures):
    PSAQ(**settings(root=str(pictures)))
    with pytest.raises(LampQError, match="has no folder train/"):
        PSAQ(**settings(root=str(pictures), source="real"))
    with pytest.raises(LampQError, match="has no folder val/; give the folder that holds val/"):
        PSAQ(**settings(root=str(pictures / "val")))
    assert ImageNet.splits == ("train", "val")


def test_a_wrong_value_is_named():
    for key, value, message in [
        ("source", "nosie", "must be one of psaq, noise, real; did you mean noise?"),
        ("images", 0, "must be an integer"),
        ("calibration_images", 0, "must be an integer"),
        ("sample_images", 2.5, "must be an integer"),
        ("validation_images", 0, "must be an integer"),
        ("batch_size", 0, "must be an integer"),
        ("workers", 0, "must be an integer"),
        ("steps", 0, "must be an integer"),
        ("warmup", 1, "must be a number"),
        ("jitter", 15, "must be a list with a number of pixels for each epoch"),
        ("jitter", [], "must be a list with a number of pixels for each epoch"),
        ("flip", 1.5, "must be a number"),
        ("learning_rate", 0, "must be a number"),
        ("betas", [0.5], "must be two numbers"),
        ("entropy_weight", -1, "must be a number"),
        ("class_weight", -1, "must be a number"),
        ("smoothness_weight", -1, "must be a number"),
        ("smoothness", [1, 2, 3], "must be two numbers"),
        ("bandwidth", 0, "must be a number"),
        ("density_points", 1, "must be an integer"),
        ("dropped_tokens", "none", "must be one of class, first"),
        ("images_per_batch", 0, "must be an integer"),
    ]:
        with pytest.raises(LampQError, match=re.escape(f"dataset.{key}=")) as caught:
            PSAQ(**settings(**{key: value}))
            pytest.fail(f"accepted: {key}, {value}")
        assert message in str(caught.value) and "\n" not in str(caught.value), (key, value, message)


def test_embedded_models_say_what_pixels_are():
    built = EmbeddedClassifier("shapes_vit").build(torch.device("cpu"))
    assert built.data_config == {"mean": shapes.MEAN, "std": shapes.STD}
