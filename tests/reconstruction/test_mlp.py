"""MLP reconstruction: ReLU in place of GELU, trained to give the same."""

import torch
from torch import nn
from torch.nn import functional

from lampq.base_quantizers.qdrop import QDrop
from lampq.reconstruction.mlp import Mlp, MlpLoss, MlpRecipe, mean_squared, reconstruct_mlp, weighed
from tests.reconstruction.blocks import QUICK, block_of, segment_of

FC1, FC2 = "blocks.1.mlp.fc1", "blocks.1.mlp.fc2"


PLAIN = MlpLoss(mean_squared)


def reconstructed(loss=PLAIN, **changes):
    """The trained MLP, its inputs, what the original gives, and what ReLU alone would give."""
    segment = segment_of(QDrop(**QUICK))
    fc1, fc2 = (segment.full_precision.module(name) for name in (FC1, FC2))
    inputs = segment.observe(FC1, full_precision=True)[0]
    recipe = MlpRecipe(**{"iterations": 60, "batch_size": 16, "rate": 3e-3, "percentile": 0.99, **changes})
    with block_of(segment) as block, torch.no_grad():
        mlp = reconstruct_mlp(block, fc1, fc2, nn.GELU(), inputs, loss, recipe)
        target = fc2(functional.gelu(fc1(inputs)))
        return mlp, inputs, target, fc2(fc1(inputs).relu())


def test_it_comes_closer_to_the_original():
    mlp, inputs, target, untrained = reconstructed()
    found = mlp.second(mlp.hidden(inputs))
    assert (found - target).square().mean() < 0.5 * (untrained - target).square().mean()
    assert mlp.hidden(inputs).min() == 0


def test_its_layers_compute_it():
    mlp, inputs, _, _ = reconstructed(iterations=2)
    fc1, fc2 = mlp.layers()
    assert isinstance(fc1, nn.Linear) and not fc1.weight.requires_grad
    assert torch.equal(fc2(fc1(inputs).relu()), mlp.second(mlp.hidden(inputs)))


def test_the_original_is_not_touched():
    segment = segment_of(QDrop(**QUICK))
    before = segment.full_precision.weights_hash()
    layers = [segment.full_precision.module(name) for name in (FC1, FC2)]
    with block_of(segment) as block:
        recipe = MlpRecipe(iterations=2, batch_size=8, rate=1e-2, percentile=0.99)
        inputs = segment.observe(FC1, full_precision=True)[0]
        mlp = reconstruct_mlp(block, *layers, nn.GELU(), inputs, PLAIN, recipe)
    assert segment.full_precision.weights_hash() == before
    assert not torch.equal(mlp.weight1, layers[0].weight)


def test_values_above_the_bound_matter_less():
    """Trained with a low bound, clipping there costs less than it does when the bound was high."""

    def clipped_error(percentile):
        mlp, inputs, target, _ = reconstructed(percentile=percentile)
        hidden = functional.gelu(functional.linear(inputs[:32], *original()))
        bound = hidden[hidden > 0].quantile(0.7)
        return (mlp.second(mlp.hidden(inputs).clamp(max=bound)) - target).square().mean()

    def original():
        layer = segment_of(QDrop(**QUICK)).full_precision.module(FC1)
        return layer.weight, layer.bias

    assert clipped_error(0.7) < 0.8 * clipped_error(1.0)


def test_only_proportions_of_the_importance_matter():
    ones = torch.ones(17, 24)
    one_sided = torch.ones(17, 24)
    one_sided[:, :12] = 0.01
    plain, scaled, other = (
        reconstructed(MlpLoss(weighed(w), 10.0), iterations=10)[0] for w in (ones, 1e-9 * ones, one_sided)
    )
    torch.testing.assert_close(plain.weight1, scaled.weight1, rtol=0, atol=1e-5)
    assert (plain.weight1 - other.weight1).abs().max() > 1e-4


def test_the_divisor_says_how_much_the_error_without_clipping_counts():
    """Without its first term it is trained for clipped activations alone."""
    both, clipped = (reconstructed(MlpLoss(mean_squared, divisor), percentile=0.7)[0] for divisor in (1.0, 1e9))
    assert (both.weight2 - clipped.weight2).abs().max() > 1e-3


def test_plain_errors_are_a_mean_over_tokens_and_channels():
    error = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 2.0]]])
    assert mean_squared(error).tolist() == [7.5, 1.0]
    assert weighed(torch.ones(2, 2))(error).tolist() == [15.0, 2.0]


def test_layers_without_bias_get_one():
    fc1, fc2 = nn.Linear(3, 4, bias=False), nn.Linear(4, 3, bias=False)
    mlp = Mlp.of(fc1, fc2)
    x = torch.randn(5, 3)
    torch.testing.assert_close(mlp.second(mlp.hidden(x)), fc2(fc1(x).relu()))
