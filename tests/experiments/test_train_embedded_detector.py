"""Training of the embedded detector: seeded, goes on where it was stopped, and its precision is COCO's."""

import numpy as np
import pytest
import torch
from torch import nn

from experiments import train_embedded_detector as training
from lampq.datasets.shape_scenes import SIZES, TRAINING_SEED, draw_scenes


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(training, "BATCH_SIZE", 2)
    monkeypatch.setattr(training, "START_SCENES", 9)
    monkeypatch.setattr(training, "KEEP_STEPS", 2)
    monkeypatch.setattr(training, "CHECK_STEPS", 3)
    monkeypatch.setattr(training, "CHECK_SCENES", 2)


def same(first, second):
    return all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_stopped_run_goes_on_to_the_same_weights(quick, tmp_path, monkeypatch):
    whole, _ = training.train(9, 1e-3, 0, tmp_path / "whole.pt", stop_after=4)
    write = training.write_whole

    def stop(path, *arguments):
        write(path, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "write_whole", stop)
        with pytest.raises(KeyboardInterrupt):  # after 2 steps
            training.train(9, 1e-3, 0, tmp_path / "stopped.pt")
    resumed, seconds = training.train(9, 1e-3, 0, tmp_path / "stopped.pt", stop_after=4)
    assert same(whole.state_dict(), resumed.state_dict()) and seconds > 0
    with pytest.raises(SystemExit, match="is of another run"):
        training.train(9, 1e-3, 1, tmp_path / "stopped.pt")


def test_batches_hold_every_scene_once_in_sizes_of_their_own():
    batches = training.Batches()
    seen = []
    for step in range(2 * len(SIZES)):
        pixels, samples = batches[step]
        assert pixels.shape[0] == training.BATCH_SIZE and {sample.img_shape for sample in samples} == {SIZES[step % 3]}
        seen += [sample.gt_instances.bboxes for sample in samples]
    drawn = draw_scenes(len(seen), TRAINING_SEED)
    expected = sorted(scene.boxes.tobytes() for scene in drawn)
    assert sorted(boxes.numpy().tobytes() for boxes in seen) == expected


class Oracle(nn.Module):
    """Finds what is there, some of it moved by a pixel or with another class."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.seen = share, 0

    def predict(self, pixels, samples):
        from mmengine.structures import InstanceData

        truth = samples[0].gt_instances
        masks = torch.from_numpy(truth.masks.masks.astype(bool))[
            :, : samples[0].img_shape[0], : samples[0].img_shape[1]
        ]
        labels = truth.labels.clone()
        wrong = (torch.arange(self.seen, self.seen + len(labels)) % 100) >= 100 * self.share
        labels[wrong] = 9 - labels[wrong]
        self.seen += len(labels)
        scores = torch.where(wrong, 0.5, 0.9)
        samples[0].pred_instances = InstanceData(bboxes=truth.bboxes, labels=labels, scores=scores, masks=masks)
        return samples


def test_average_precision_of_what_is_known():
    assert training.average_precision(Oracle(1.0), 6, TRAINING_SEED) == pytest.approx((100, 100))
    assert training.average_precision(Oracle(0.0), 6, TRAINING_SEED) == pytest.approx((0, 0), abs=1)
    box, mask = training.average_precision(Oracle(0.5), 60, TRAINING_SEED)
    assert box == pytest.approx(mask) and 40 < box < 60


def test_a_model_that_finds_nothing_has_no_precision():
    class Blind(Oracle):
        def predict(self, pixels, samples):
            samples = super().predict(pixels, samples)
            samples[0].pred_instances = samples[0].pred_instances[:0]
            return samples

    assert training.average_precision(Blind(1.0), 2, TRAINING_SEED) == (0.0, 0.0)


def test_weights_start_at_a_size_that_keeps_a_signals_size():
    torch.manual_seed(0)
    model = training.build_embedded_detector()
    training.initialize(model)
    pixels, _ = training.batch_of(draw_scenes(1, TRAINING_SEED))
    with torch.no_grad():
        features = model.backbone(pixels)
    assert [tuple(feature.shape[1:]) for feature in features] == [(32, 24, 32), (64, 12, 16), (128, 6, 8), (256, 3, 4)]
    assert all(0.5 < float(feature.std()) < 2 for feature in features)
    assert np.isfinite(sum(float(feature.sum()) for feature in features))
