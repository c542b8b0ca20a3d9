"""Labels drawn from a classifier's own predictions."""

import torch

from lampq.models.sampled_labels import sample_labels


def test_sampled_labels_follow_the_prediction():
    logits = torch.tensor([0.1, 0.2, 0.0, 0.7], dtype=torch.float64).log().expand(20_000, 4)
    share = sample_labels(logits, seed=0).bincount(minlength=4) / 20_000
    torch.testing.assert_close(share, torch.tensor([0.1, 0.2, 0.0, 0.7]), rtol=0, atol=0.015)
    assert share[2] == 0


def test_sampled_labels_do_not_depend_on_how_many_there_are():
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    labels = sample_labels(logits, seed=3)
    assert labels.dtype == torch.int64
    for count in (1, 7, 16, 33):
        assert torch.equal(sample_labels(logits[:count], seed=3), labels[:count])
    assert not torch.equal(sample_labels(logits, seed=4), labels)


def test_a_certain_prediction_is_always_drawn():
    logits = torch.full((100, 5), -1e4)
    logits[torch.arange(100), torch.arange(100) % 5] = 1e4
    assert torch.equal(sample_labels(logits, seed=0), torch.arange(100) % 5)
