"""Losses of block reconstruction against their definitions, on a small ViT."""

import copy

import pytest
import torch

from lampq.base_quantizers.qdrop import QDrop
from lampq.reconstruction.losses.average_hessian import AveragePerturbation, average_perturbation, hessian_product
from lampq.reconstruction.losses.divergence import Divergence, divergence
from lampq.reconstruction.losses.fisher import FisherApproximation
from lampq.reconstruction.losses.global_feature import GlobalFeature
from lampq.reconstruction.losses.local_feature import LocalFeature
from lampq.reconstruction.losses.logit_divergence import LogitDivergence
from lampq.reconstruction.losses.mse import SquaredError
from lampq.reconstruction.losses.normalized_sum import NormalizedSum
from lampq.reconstruction.losses.prediction_difference import PredictionDifference
from tests.reconstruction.blocks import QUICK, block_of, recipe, segment_of

IMAGES = torch.arange(6)


@pytest.fixture(scope="module")
def block():
    with block_of(segment_of(QDrop(**QUICK), count=20), recipe()) as block:
        yield block


def double(block):
    """The rest of the network in double precision, as a function of the block's output."""
    network = block.segment.full_precision.clone()
    network.network = copy.deepcopy(block.segment.full_precision.network).double()
    return lambda state: network.run(state, block.segment.index + 1)


def noisy(block, scale=0.1):
    generator = torch.Generator().manual_seed(0)
    return block.targets + scale * torch.randn(block.targets.shape, generator=generator)


def test_squared_error_is_a_sum_over_tokens_and_a_mean_over_channels():
    output, target = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    target[1] = 2
    assert SquaredError()(output, target, IMAGES[:2]).tolist() == [3.0, 12.0]
    assert SquaredError(10.0)(output, target, IMAGES[:2]).tolist() == pytest.approx([0.3, 1.2])
    maps = SquaredError()(torch.zeros(1, 2, 3, 4), torch.ones(1, 2, 3, 4), IMAGES[:1])
    assert maps.tolist() == [6.0], "height and width are tokens"


def test_divergence_by_hand():
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    expected = (p * (p / q).log()).sum()
    value = Divergence()(q.log()[None] + 3, p.log()[None], IMAGES[:1])
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    logits = torch.randn(4, 7)
    assert divergence(logits, logits, 2.0).abs().max() < 1e-6
    assert (divergence(logits, torch.randn(4, 7), 20.0) < divergence(logits, torch.randn(4, 7), 1.0)).all()


def test_prediction_difference(block):
    """0 for the full-precision output; divided by lambda_r."""
    losses = {weight: PredictionDifference(4.0, weight) for weight in (0.1, 1.0, 1e12)}
    output = noisy(block)[IMAGES]
    for loss in losses.values():
        loss.prepare(block)
        assert loss.clean(block.targets[IMAGES], IMAGES).abs().max() < 1e-6
    values = {weight: loss.clean(output, IMAGES) for weight, loss in losses.items()}
    logits = block.rest(output)
    expected = divergence(logits, block.full_precision_logits()[IMAGES], 4.0)
    torch.testing.assert_close(values[1.0], expected)
    torch.testing.assert_close(values[0.1], 10 * expected)
    assert values[1e12].max() < 1e-9 and expected.min() > 1e-6
    others = losses[1.0](output, block.targets[IMAGES], IMAGES)
    assert torch.equal(others, SquaredError()(output, block.targets[IMAGES], IMAGES))


def test_an_infinite_lambda_is_qdrop():
    def states(loss):
        settings = recipe(iterations=4, quantized_input=0.5, quantized_activation=0.5)
        with block_of(segment_of(QDrop(**QUICK)), settings) as block:
            block.train(loss, settings)
            return torch.cat([v.flatten().float() for state in block.states().values() for v in state.values()])

    expected = states(SquaredError())
    torch.testing.assert_close(states(PredictionDifference(4.0, 1e12)), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(states(PredictionDifference(4.0, 0.001)), expected, rtol=0, atol=1e-6)


def signs(like, seed=0):
    return torch.randint(0, 2, like.shape, generator=torch.Generator().manual_seed(seed)).to(like) * 2 - 1


def test_hessian_is_that_of_two_perturbations(block):
    """g+ - g- over 2 eps in double precision, the published definition."""
    rest, state, temperature, eps = double(block), block.targets[:3].double(), 20.0, 1e-4
    direction = signs(state)
    with torch.no_grad():
        logits = rest(state)

    def gradient(sign):
        moved = (state + sign * eps * direction).requires_grad_()
        return torch.autograd.grad(divergence(rest(moved), logits, temperature).sum(), moved)[0]

    expected = (gradient(1) - gradient(-1)) / (2 * eps)
    found = hessian_product(block.rest, block.targets[:3], direction.float(), temperature)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_a_constant_perturbation_is_not_seen_by_layernorms(block):
    """Why the perturbation has random signs and is not the published constant one."""
    state = block.targets[:3].double()
    constant = hessian_product(double(block), state, torch.ones_like(state), 20.0)
    assert constant.abs().max() < 1e-6 * hessian_product(double(block), state, signs(state), 20.0).abs().max()


def test_at_the_logits_ones_are_in_the_null_space():
    """Softmax does not see a shift of all logits: this is why the head is trained by the divergence itself."""
    logits = torch.randn(5, 10)
    found = hessian_product(lambda logits: logits, logits, torch.ones_like(logits), 2.0)
    assert found.abs().max() < 1e-6 < hessian_product(lambda logits: logits, logits, signs(logits), 2.0).abs().max()


def test_average_hessian(block):
    weights = average_perturbation(block, 20.0, 7)
    assert weights.shape == block.targets.shape[1:] and (weights >= 0).all() and weights.max() > 0
    assert torch.equal(weights, average_perturbation(block, 20.0, 7))
    assert (weights - average_perturbation(block, 20.0, 3)).abs().max() > 0.1 * weights.max()
    few = [hessian_product(block.rest, block.targets[:7], signs(block.targets[:7], seed), 20.0) for seed in range(40)]
    expected = torch.stack(few).abs().mean((0, 1))
    assert torch.corrcoef(torch.stack([weights.flatten(), expected.flatten()]))[0, 1] > 0.8


def test_loss_of_the_average_hessian(block):
    loss = AveragePerturbation(20.0, 8)
    loss.prepare(block)
    output, target = noisy(block), block.targets
    expected = ((output - target).square() * loss.weights).flatten(1).mean(1)
    values = loss(output, target, torch.arange(20))
    ratio = values / expected
    torch.testing.assert_close(ratio, ratio[0].expand_as(ratio))
    start = loss(block.run(block.segment.inputs[:32]), target[:32], torch.arange(20)).mean()
    assert start.item() == pytest.approx(2.0, rel=1e-4)


def test_with_a_constant_hessian_the_loss_is_the_squared_error(block):
    loss = AveragePerturbation(20.0, 8)
    loss.weights = torch.full(block.targets.shape[1:], 0.37)
    loss.prepare(block)
    output, target = noisy(block), block.targets
    ratio = loss(output, target, IMAGES) / SquaredError()(output, target, IMAGES)
    torch.testing.assert_close(ratio, ratio[0].expand_as(ratio))


def test_fisher_approximation(block):
    """Both terms by their definition, from one row and from two; rows are collected every so many steps."""
    loss = FisherApproximation(20.0, 2, 10, 6)
    loss.prepare(block)
    loss.refresh(block, 0)
    images, target = torch.arange(6), block.targets[:6]
    with torch.no_grad():
        output = block.run(block.segment.inputs[:6])
    moved = output.clone().requires_grad_()
    value = divergence(block.rest(moved), block.full_precision_logits()[:6], 20.0).sum()
    gradient = torch.autograd.grad(value, moved)[0].flatten(1).abs().double().mean(0)
    mean_error = (output - target).abs().flatten(1).double().mean(0)
    torch.testing.assert_close(loss._gradients[0], gradient, rtol=1e-4, atol=1e-9)

    other = noisy(block)[:6]
    errors = (other - target).abs().flatten(1).double()
    low_rank = (errors @ gradient).square() / (mean_error @ mean_error)
    diagonal = (errors.square() * gradient).mean(1)
    torch.testing.assert_close(loss._low_rank(other, target).double(), low_rank, rtol=1e-3, atol=0)
    torch.testing.assert_close(loss._of_diagonal(other, target).double(), diagonal, rtol=1e-3, atol=0)
    for step in range(1, 10):
        loss.refresh(block, step)
    assert len(loss._gradients) == 2 and loss._inverse.shape == (2, 2)
    assert (loss(other, target, images) > 0).all()
    with torch.no_grad():
        whole = block.run(block.segment.inputs)
    assert loss(whole, block.targets, torch.arange(20)).mean().item() == pytest.approx(2.0, rel=1e-3)


def test_local_features_by_their_definition():
    output, target = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    target[1] = 2
    assert LocalFeature()(output, target, IMAGES[:2]).tolist() == [1.0, 4.0]


def test_global_features_are_what_the_classifier_reads(block):
    """0 for the full-precision output; otherwise the error of the class token behind the last norm."""
    loss = GlobalFeature()
    loss.prepare(block)
    assert loss(block.targets[IMAGES], block.targets[IMAGES], IMAGES).max() < 1e-10
    output, network = noisy(block)[IMAGES], block.segment.full_precision
    tokens = [network.network.norm(network.run(x, 3, 4)) for x in (output, block.targets[IMAGES])]
    expected = (tokens[0][:, 0] - tokens[1][:, 0]).square().mean(1)
    torch.testing.assert_close(loss(output, block.targets[IMAGES], IMAGES), expected)
    assert expected.min() > 1e-6


def test_divergence_on_the_output_that_is_trained_is_that_of_the_prediction_difference(block):
    loss, other = LogitDivergence(4.0), PredictionDifference(4.0, 1.0)
    for each in (loss, other):
        each.prepare(block)
    output = noisy(block)[IMAGES]
    assert torch.equal(loss(output, block.targets[IMAGES], IMAGES), other.clean(output, IMAGES))


def test_each_term_of_a_sum_is_divided_by_what_it_is_on_the_first_batch(block):
    block.first_batch = torch.tensor([3, 1, 8])
    terms = [LocalFeature(), GlobalFeature()]
    loss = NormalizedSum((terms[0], 2.0), (terms[1], 1.0))
    loss.prepare(block)
    with torch.no_grad():
        first = block.run(block.segment.inputs[block.first_batch])
        values = [term(first, block.targets[block.first_batch], block.first_batch).mean() for term in terms]
        whole = loss(first, block.targets[block.first_batch], block.first_batch).mean()
    assert whole.item() == pytest.approx(3.0, rel=1e-5)
    output = noisy(block)[IMAGES]
    one, other = (term(output, block.targets[IMAGES], IMAGES) for term in terms)
    torch.testing.assert_close(loss(output, block.targets[IMAGES], IMAGES), 2 * one / values[0] + other / values[1])


def test_a_term_that_is_zero_at_first_is_divided_by_a_small_number(block):
    class Nothing(LocalFeature):
        def __call__(self, output, target, images):
            return 0 * super().__call__(output, target, images)

    loss = NormalizedSum((Nothing(), 1.0))
    loss.prepare(block)
    assert loss(noisy(block)[IMAGES], block.targets[IMAGES], IMAGES).tolist() == [0.0] * 6
