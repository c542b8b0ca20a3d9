"""Similarities between patches, by hand and on small models: pairs once, class tokens dropped, windows apart."""

import pytest
import torch

from lampq.datasets.psaq.entropy import differential_entropy, evaluation_points
from lampq.datasets.psaq.patch_similarity import PatchSimilarityModel, pair_similarities
from tests.small_models import distilled_adapter, images, swin_adapter, vit_adapter


def attended(windows, tokens, seed=0):
    return torch.randn(windows, 2, tokens, 5, generator=torch.Generator().manual_seed(seed))


def whole_matrix(given, dropped):
    features = given.mean(1)[:, dropped:]
    return torch.nn.functional.cosine_similarity(features[:, :, None], features[:, None], dim=-1)


@pytest.mark.parametrize("dropped", [0, 1, 2])
def test_pairs_and_counts_are_the_whole_matrix(dropped):
    given = attended(3, 7)
    values, counts = pair_similarities(given, 3, dropped)
    matrix = whole_matrix(given, dropped).flatten(1)
    assert counts.sum() == matrix.shape[1] == (7 - dropped) ** 2
    for mine, every in zip(values, matrix, strict=True):
        repeated = mine.repeat_interleave(counts.long()).sort().values
        torch.testing.assert_close(repeated, every.sort().values, rtol=0, atol=1e-6)


def test_windows_of_an_image_are_compared_within_themselves_and_counted_together():
    given = attended(6, 4)
    values, counts = pair_similarities(given, 2, 0)
    assert values.shape == (2, 3 * 10) and counts.sum() == 3 * 16
    alone, _ = pair_similarities(given[3:], 1, 0)
    torch.testing.assert_close(values[1:], alone)


def test_tokens_that_are_all_alike_give_entropy_0_and_a_gradient_without_nan():
    given = torch.ones(2, 2, 5, 3, requires_grad=True)
    values, counts = pair_similarities(given, 2, 1)
    found = differential_entropy(values, counts, evaluation_points(values, 10), 0.01)
    found.sum().backward()
    assert found.abs().max() < 1e-4 and torch.isfinite(given.grad).all()


@pytest.mark.parametrize(
    ("adapter", "prefix", "windows"),
    [(vit_adapter(2), 1, False), (distilled_adapter(), 2, False), (swin_adapter(), 0, True)],
    ids=["vit", "deit", "swin"],
)
def test_a_model_says_its_entropies_and_the_same_logits(adapter, prefix, windows):
    assert (adapter.prefix_tokens, adapter.windows) == (prefix, windows)
    pictures = images(adapter, 3).requires_grad_()
    model = PatchSimilarityModel(adapter, adapter.prefix_tokens, 0.01, 10)
    logits, entropies = model(pictures)
    assert entropies.shape == (3, adapter.blocks) and entropies.isfinite().all()
    torch.testing.assert_close(logits, adapter.run(pictures), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(entropies.sum(), pictures)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    assert not any(module._forward_hooks for module in adapter.network.modules())


def test_the_first_block_by_hand():
    adapter = vit_adapter(1)
    adapter.network.double()
    pictures = images(adapter, 2).double()
    kept = []
    handle = adapter.module("blocks.0.attn.pv").register_forward_hook(lambda m, i, output: kept.append(output))
    adapter.run(pictures)
    handle.remove()
    matrix = whole_matrix(kept[0], 1).flatten(1)
    counts = torch.ones(matrix.shape[1]).double()
    expected = differential_entropy(matrix, counts, evaluation_points(matrix, 10), 0.01)
    _, entropies = PatchSimilarityModel(adapter, 1, 0.01, 10)(pictures)
    torch.testing.assert_close(entropies[:, 0], expected, rtol=1e-9, atol=0)


def test_dropping_a_real_token_of_swin_matters():
    adapter = swin_adapter()
    pictures = images(adapter, 2)
    none, first = (PatchSimilarityModel(adapter, dropped, 0.01, 10)(pictures)[1] for dropped in (0, 1))
    assert not torch.allclose(none, first)
