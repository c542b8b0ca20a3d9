"""ERQ: its two regressions by hand, what they may not make worse, and whole layers."""

import pytest
import torch
from torch import nn

from lampq.base_quantizers.erq import (
    ERQ,
    compensated_for_activations,
    outlying_channels,
    rounded_by_halves,
    second_moments,
)
from lampq.errors import LampQError
from lampq.number_formats.uniform import affine_codes, affine_from_range
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from tests.base_quantizers.example_sites import TYPES, example, site
from tests.small_models import search_over, vit_adapter

LINEAR = [kind for kind in TYPES if kind not in ("qk", "pv")]


def problem(rows=9, columns=14, samples=300, seed=0):
    """A weight, inputs that are not centred, and coarse copies of them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, columns, generator=generator, dtype=torch.float64)
    x = 0.5 + x @ torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64), x, torch.round(x / 2) * 2


def output_error(weight, full_weight, x, quantized):
    return (quantized @ weight.T - x @ full_weight.T).square().sum().item()


def test_activation_error_by_hand():
    quantized, x = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([[2.0], [3.0]]).double()
    weight = torch.ones(1, 1).double()
    changed = compensated_for_activations(weight, quantized.T @ quantized, quantized.T @ (x - quantized), 0)
    assert changed.item() == pytest.approx(1.6)
    assert (x @ weight.T - quantized @ changed.T).flatten().tolist() == pytest.approx([0.4, -0.2])


def test_activation_error_is_least_and_the_ridge_holds_back():
    weight, x, quantized = problem()
    moments, error = quantized.T @ quantized, quantized.T @ (x - quantized)
    before = output_error(weight, weight, x, quantized)
    errors, sizes = [], []
    for ridge in (0, 10, 1000, 1e12):
        changed = compensated_for_activations(weight, moments, error, ridge)
        errors.append(output_error(changed, weight, x, quantized))
        sizes.append((changed - weight).square().sum().item())
        assert errors[-1] + ridge * sizes[-1] <= before * (1 + 1e-12)
    assert errors == sorted(errors) and errors[0] < 0.9 * before
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 1e-12
    same = compensated_for_activations(weight, moments, torch.zeros_like(error), 0)
    assert torch.equal(same, weight), "inputs that are not quantized"


@pytest.mark.parametrize("bias", [False, True])
def test_rounding_by_halves_ends_on_the_grid_with_less_error(bias):
    weight, _, quantized = problem()
    rows, columns = weight.shape
    if bias:
        weight = torch.cat([weight, torch.ones(rows, 1).double()], 1)
        quantized = torch.cat([quantized, torch.ones(len(quantized), 1).double()], 1)
    moments = quantized.T @ quantized
    scale, zero_point = affine_from_range(weight[:, :columns].amin(1), weight[:, :columns].amax(1), 3)
    grid = [parameter[:, None].expand(rows, columns) for parameter in (scale, zero_point)]
    errors = []
    for ridge, turns in ((1e15, 0), (1.0, 0), (1.0, 100)):
        codes, rounded = rounded_by_halves(weight, moments, len(quantized), *grid, 3, ridge, turns)
        assert torch.equal(codes, codes.round()) and codes.min() >= 0 and codes.max() <= 7
        torch.testing.assert_close(rounded[:, :columns], (codes - grid[1]) * grid[0])
        errors.append(output_error(rounded, weight, quantized, quantized))
        if ridge > 1e9:
            assert torch.equal(codes, affine_codes(weight[:, :columns], *grid, 3))
            torch.testing.assert_close(rounded[:, columns:], weight[:, columns:])
    assert errors[0] > errors[1] > errors[2], "rounding alone, compensated, with other roundings"


def test_second_moments_are_mean_and_covariance():
    x = problem()[1]
    expected = x.mean(0)[:, None] * x.mean(0) + torch.cov(x.T)
    ones = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    columns = x.shape[1]
    torch.testing.assert_close(second_moments(ones.T @ ones, len(x), True)[:columns, :columns], expected)
    torch.testing.assert_close(second_moments(x.T @ x, len(x), False), x.T @ x / len(x))


def test_outlying_channels():
    weight = torch.randn(60, 40, generator=torch.Generator().manual_seed(0))
    weight[:50, 7] = 30
    weight[:40, 21] = -20
    weight[30:, 33] = 12
    assert outlying_channels(weight).nonzero().flatten().tolist() == [7, 21, 33]
    assert not outlying_channels(weight[:19]).any(), "fewer than 20 rows have none"


def calibrated(kind, bits=3, method=None, layer=None, inputs=None):
    plain, operands = example(kind, images=12)
    method, layer, inputs = method or ERQ(coe=10), layer or plain, inputs or operands
    state = method.calibrate(site(kind), layer, inputs, Bits(bits, bits))
    return method.quantized_module(site(kind), layer, state, Bits(bits, bits)), state


def error_of(kind, module):
    layer, inputs = example(kind, images=12)
    return (module(*inputs) - layer(*inputs)).square().mean().item()


@pytest.mark.parametrize("kind", LINEAR)
def test_the_less_the_ridge_holds_back_the_smaller_the_error(kind):
    errors = [error_of(kind, calibrated(kind, method=ERQ(coe=coe))[0]) for coe in (1e12, 10)]
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("kind", LINEAR)
def test_weights_and_bias_are_what_is_stored(kind):
    module, state = calibrated(kind)
    codes, groups = state["weight_codes"], state["weight_scale"].shape[1]
    assert codes.dtype == torch.uint8 and codes.max() < 8
    assert groups == (2 if kind in ("qkv", "fc1") else 1) and (groups == 2) == ("weight_group" in state)
    group = state.get("weight_group", torch.zeros(codes.shape[1])).long()
    weight = (codes.float() - state["weight_zero_point"][:, group]) * state["weight_scale"][:, group]
    assert torch.equal(module.weight.flatten(1), weight)
    layer, _ = example(kind)
    assert ("bias" in state) == (layer.bias is not None)
    if layer.bias is not None:
        assert torch.equal(module.bias, state["bias"]) and not torch.equal(module.bias, layer.bias)


def test_a_layer_without_bias_stays_without():
    with_bias, inputs = example("proj", images=12)
    layer = nn.Linear(32, 24, bias=False).requires_grad_(False)
    layer.weight.copy_(with_bias.weight)
    module, state = calibrated("proj", layer=layer)
    assert module.bias is None and "bias" not in state
    nearest, _ = calibrated("proj", layer=layer, method=ERQ(coe=1e12, turns=0))
    errors = [(m(*inputs) - layer(*inputs)).square().mean().item() for m in (module, nearest)]
    assert errors[0] < errors[1]


def test_patch_merging_is_not_reparameterized():
    assert "channel_scale" not in calibrated("reduction")[1] and "channel_scale" in calibrated("qkv")[1]


@pytest.mark.parametrize("options", [{"coe": 1e4}, {"two_scales": False}, {"turns": 0}, {"literal": True}])
def test_options_change_the_weights(options):
    base = {"coe": 10}
    plain, changed = calibrated("qkv")[1], calibrated("qkv", method=ERQ(**{**base, **options}))[1]
    assert not torch.equal(plain["weight_codes"], changed["weight_codes"])
    assert ERQ(**{**base, **options}).settings() != ERQ(**base).settings()


def test_weights_are_fitted_to_full_precision_inputs_and_activations_observed_behind_quantized_ones(tmp_path):
    method = ERQ(coe=10)
    search = search_over(vit_adapter(2), tmp_path, base_quantizer=method)
    rules = Budget(4, 4, (4,), "fixed", (4, 4), "target", image_bits=method.image_bits)
    plan = rules.plan(search.adapter.sites, {s.name: 4 for s in search.layers})
    states = search.realisation.states(plan)
    last = search.adapter.site("blocks.1.mlp.fc2")
    alone = search.bank.entry(last, Bits(4, 4))
    assert not torch.equal(alone["input_scale"], states[last.name]["input_scale"])
    layer, name = search.adapter.module(last.name), last.name
    upstream, seen = search.adapter.clone(), {}
    with torch.no_grad():
        for target, planned in zip(search.adapter.sites, plan.sites, strict=True):
            if target.name == name:
                break
            arguments = target, search.adapter.module(target.name), states[target.name], planned.bits
            module = method.upstream_module(*arguments)
            weight = getattr(search.adapter.module(target.name), "weight", None)
            assert weight is None or torch.equal(module.weight.flatten(), weight.flatten()), "not quantized"
            upstream.replace_module(target.name, module)
        for key, adapter in (("quantized", upstream), ("full", search.adapter.clone())):
            adapter.module(name).register_forward_pre_hook(lambda _, x, key=key: seen.update({key: x}))
            adapter.run(search.task.calibration_images)
        observed = method.calibrate(last, layer, seen["quantized"], Bits(None, 4))
        torch.testing.assert_close(states[name]["input_scale"], observed["input_scale"], rtol=1e-4, atol=0)
        expected = method._calibrate(last, layer, seen["quantized"], seen["full"], Bits(4, 4))
        same = (expected["weight_codes"] == states[name]["weight_codes"]).float().mean()
        other = method.calibrate(last, layer, seen["quantized"], Bits(4, 4))
        assert same > 0.99 > (other["weight_codes"] == states[name]["weight_codes"]).float().mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coe": 0}, "base_quantizer.coe=0: must be a number above 0"),
        ({"two_scales": "no"}, "base_quantizer.two_scales=no: must be true or false"),
        ({"turns": -1}, "base_quantizer.turns=-1: must be an integer of at least 0"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(LampQError) as error:
        ERQ(**options)
    assert message in str(error.value)
