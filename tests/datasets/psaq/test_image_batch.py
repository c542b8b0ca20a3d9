"""The optimisation of a batch: it does what it is for, every setting matters, and it goes on where it stopped."""

import dataclasses

import pytest
import torch

import lampq.datasets.psaq.image_batch as image_batch
from lampq.datasets.psaq.image_batch import HISTORY, Draws, PixelRange, make_batch
from lampq.datasets.psaq.recipe import Recipe
from lampq.datasets.shapes import MEAN, STD
from lampq.models.embedded.embedded_classifier import EmbeddedClassifier
from lampq.storage.store import Store
from tests.datasets.psaq.test_recipe import PUBLISHED
from tests.small_models import CLASSES, vit_adapter

PIXELS = PixelRange((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SHORT = Recipe(**{**PUBLISHED, "steps": 3, "jitter": (60, 120)})
KEY = {"images": "these"}


@pytest.fixture(scope="module")
def adapter():
    return vit_adapter(1)


def draws(seed=0, batch=0, images=4, side=16, classes=CLASSES):
    return Draws(seed, batch, (images, 3, side, side), classes)


def made(adapter, recipe=SHORT, drawn=None, partial=None, pixels=PIXELS):
    return make_batch(adapter, recipe, pixels, drawn or draws(), "images", partial)


def test_the_same_seed_draws_the_same_and_another_something_else():
    one, again = draws(), draws()
    assert torch.equal(one.images, again.images) and torch.equal(one.labels, again.labels)
    assert one.augmentations(SHORT, 16) == again.augmentations(SHORT, 16)
    for other in (draws(seed=1), draws(batch=1)):
        assert not torch.equal(one.images, other.images)


def test_what_is_drawn_has_its_distribution():
    recipe = Recipe(**{**PUBLISHED, "steps": 2000, "jitter": (28, 56), "flip": 0.25})
    shifts, flips = draws().augmentations(recipe, 16)
    assert set(shifts[:2000]) == set(range(-2, 3)) and set(shifts[2000:]) == set(range(-4, 5))
    assert abs(sum(shifts[:2000]) / 2000) < 0.2 and abs(sum(flips) / 4000 - 0.25) < 0.04
    labels = draws(images=3000, side=1).labels
    assert (labels.bincount(minlength=CLASSES) > 200).all() and len(labels.bincount()) == CLASSES
    assert all(2500 <= draws(seed=seed, images=1).between(2500, 3000) <= 3000 for seed in range(20))


def test_pixels_stay_in_their_range():
    images = torch.tensor([[[[-9.0, 9.0]], [[-9.0, 9.0]]]])
    clamped = PixelRange((0.5, 0.2), (0.25, 0.1)).clamp_(images)
    torch.testing.assert_close(clamped, torch.tensor([[[[-2.0, 2.0]], [[-2.0, 8.0]]]]))


def test_what_a_batch_is(adapter):
    batch = made(adapter)
    assert batch["images"].shape == (4, 3, 16, 16) and batch["images"].abs().max() <= 2
    assert torch.equal(batch["labels"], draws().labels) and batch["history"].shape == (6, len(HISTORY))
    assert torch.equal(batch["predictions"], adapter.run(batch["images"]).argmax(1))
    assert batch["history"].isfinite().all() and not batch["images"].requires_grad
    assert torch.equal(batch["images"], made(adapter)["images"])


def test_the_loss_is_the_sum_of_its_terms(adapter):
    recipe = dataclasses.replace(SHORT, entropy_weight=2.0, class_weight=3.0, smoothness_weight=0.5)
    batch = made(adapter, recipe)
    entropy, class_loss, variation, loss = batch["history"].T
    expected = 3 * class_loss - 2 * entropy + 0.5 * (variation - batch["target"]).abs()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_the_first_step_by_hand(adapter):
    """Adam's first step has the size of the learning rate, against the gradient's sign, then pixels are clamped."""
    recipe = dataclasses.replace(
        SHORT, steps=1, jitter=(0,), flip=0.0, entropy_weight=0.0, smoothness_weight=0.0, learning_rate=0.01, warmup=0
    )
    start = draws().images.requires_grad_()
    loss = torch.nn.functional.cross_entropy(adapter.run(start), draws().labels)
    (gradient,) = torch.autograd.grad(loss, start)
    expected = (start.detach() - 0.01 * gradient / (gradient.abs() + 1e-8)).clamp(-2, 2)
    torch.testing.assert_close(made(adapter, recipe)["images"], expected, rtol=0, atol=1e-5)


def test_a_step_sees_the_images_shifted_and_flipped(adapter, monkeypatch):
    seen = []
    monkeypatch.setattr(
        image_batch, "total_variation", lambda images: seen.append(images.detach().clone()) or images[0, 0, 0, 0]
    )
    drawn = draws()
    monkeypatch.setattr(drawn, "augmentations", lambda recipe, side: ([3, -1], [False, True]))
    made(adapter, dataclasses.replace(SHORT, steps=2, jitter=(0,), learning_rate=1e-30), drawn)
    start = draws().images
    assert torch.equal(seen[0], start.roll(3, 2).roll(3, 3))
    assert torch.equal(seen[1], PIXELS.clamp_(start).roll(-1, 2).roll(-1, 3).flip(3))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 4),
        ("warmup", 0.9),
        ("jitter", (60, 60)),
        ("jitter", (60,)),
        ("flip", 0.0),
        ("learning_rate", 0.1),
        ("betas", (0.9, 0.9)),
        ("betas", (0.5, 0.99)),
        ("entropy_weight", 0.0),
        ("class_weight", 0.0),
        ("smoothness_weight", 0.0),
        ("smoothness", (90000, 95000)),
        ("bandwidth", 0.05),
        ("density_points", 20),
        ("dropped", 0),
    ],
)
def test_every_setting_changes_the_images(adapter, setting, value):
    drawn = draws(seed=3)
    assert any(drawn.augmentations(SHORT, 16)[1]) and not torch.equal(
        made(adapter, dataclasses.replace(SHORT, **{setting: value}), draws(seed=3))["images"],
        made(adapter, SHORT, draws(seed=3))["images"],
    )


def test_the_loss_falls_on_a_trained_model():
    adapter = EmbeddedClassifier("shapes_vit").build(torch.device("cpu"))
    recipe = Recipe(**{**PUBLISHED, "steps": 15})
    batch = made(adapter, recipe, draws(images=8, side=40, classes=100), pixels=PixelRange(MEAN, STD))
    entropy, class_loss, variation, loss = batch["history"].T
    assert loss[-5:].mean() < loss[:5].mean() - 5 and entropy[-5:].mean() > entropy[:5].mean()
    assert class_loss[-5:].mean() < class_loss[:5].mean()
    assert (variation[-1] - batch["target"]).abs() < (variation[0] - batch["target"]).abs()


class Killed(BaseException):
    """Ends a process."""


def test_an_interrupted_batch_goes_on_bit_for_bit(adapter, tmp_path, monkeypatch):
    whole = made(adapter)
    monkeypatch.setattr(image_batch, "SECONDS_BETWEEN_SAVES", 0)
    calls = []
    step = image_batch.total_variation

    def counting(images):
        calls.append(None)
        if len(calls) == 5:
            raise Killed
        return step(images)

    monkeypatch.setattr(image_batch, "total_variation", counting)

    def computed(store):
        partial = store.partial("synthesis", KEY)
        return store.fetch("synthesis", KEY, lambda: made(adapter, partial=partial))

    with pytest.raises(Killed):
        computed(Store(tmp_path))
    (state,) = tmp_path.rglob("*.partial.safetensors")
    resumed = computed(Store(tmp_path))
    assert len(calls) == 5 + 2  # four steps were kept, six there are
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not state.exists()
    assert torch.equal(computed(Store(tmp_path))["images"], whole["images"]) and len(calls) == 7


def test_the_state_is_kept_every_minute_at_most(adapter, tmp_path, monkeypatch):
    written = []
    partial = Store(tmp_path).partial("synthesis", KEY)
    monkeypatch.setattr(partial, "write", written.append)
    made(adapter, partial=partial)
    assert written == [] and 10 <= image_batch.SECONDS_BETWEEN_SAVES <= 300
