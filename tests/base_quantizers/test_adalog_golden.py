"""AdaLog against what the authors' own code answered on small inputs.

At 8 bits ours considers min-max parameters too, and is better: only errors are compared there.
"""

from pathlib import Path

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional

from lampq.base_quantizers.adalog import AdaLog
from lampq.calibration.alternating_search import AlternatingSearch
from lampq.calibration.candidate_formats import UniformFormat
from lampq.calibration.candidates import activation_zero_points, uniform_grid
from lampq.calibration.self_error import SelfError
from lampq.number_formats.adalog import GELU_SHIFT, AdaLogQuantizer
from lampq.number_formats.uniform import fake_quantize_affine
from lampq.plan.bits import Bits
from lampq.quantized_modules.matmul import MatMul
from lampq.reparameterization.layernorm import reparameterize, transform_input, transform_layer
from tests.base_quantizers.example_sites import site

GOLDEN = Path(__file__).parent.parent / "golden"
BITS = (1, 2, 3, 4, 6, 8)
AS_GOOD = 1 + 1e-6

SAME_SCALE = 5e-4
"""Errors are flat at their minimum: one within 2.5e-7 of it (a tie) leaves the scale free by about its square root."""


def golden(name, bits):
    with numpy.load(GOLDEN / f"adalog_{name}_{bits}bit.npz") as arrays:
        return {key: torch.tensor(arrays[key], dtype=torch.float64) for key in arrays.files}


def squared_error(module, layer, inputs):
    return (module(*inputs) - layer(*inputs)).square().sum().item()


def linear(weight, bias):
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double().requires_grad_(False)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    return layer


def authors_weight(values):
    row = (-1, *[1] * (values["weight"].dim() - 1))
    scale, zero_point = values["weight_scale"].view(row), values["weight_zero_point"].view(row)
    return scale, zero_point


def ours(kind, layer, inputs, bits):
    state = AdaLog().calibrate(site(kind), layer, inputs, Bits(bits, bits))
    return state, squared_error(AdaLog().quantized_module(site(kind), layer, state, Bits(bits, bits)), layer, inputs)


def compare_linear(layer, x, values, bits):
    state, error = ours("proj", layer, (x,), bits)
    weight = fake_quantize_affine(layer.weight, *authors_weight(values), bits)
    inputs = fake_quantize_affine(x, values["activation_scale"], values["activation_zero_point"], bits)
    theirs = (functional.linear(inputs, weight, layer.bias) - layer(x)).square().sum().item()
    assert error <= theirs * AS_GOOD
    if bits < 8:
        assert state["input_scale"].item() == pytest.approx(values["activation_scale"].item(), rel=SAME_SCALE)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", ["linear", "qkv"])
def test_linear(name, bits):
    values = golden(name, bits)
    layer = linear(values["weight"], values["bias"])
    compare_linear(layer, values["input"], values, bits)
    module_output = values["output"]
    weight = fake_quantize_affine(layer.weight, *authors_weight(values), bits)
    inputs = fake_quantize_affine(values["input"], values["activation_scale"], values["activation_zero_point"], bits)
    torch.testing.assert_close(functional.linear(inputs, weight, layer.bias), module_output, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_parameters_where_they_are_unique(bits):
    values = golden("linear", bits)
    state, _ = ours("proj", linear(values["weight"], values["bias"]), (values["input"],), bits)
    assert torch.equal(state["weight_zero_point"], values["weight_zero_point"])
    assert state["input_zero_point"] == values["activation_zero_point"]
    torch.testing.assert_close(state["weight_scale"], values["weight_scale"], rtol=SAME_SCALE, atol=0)


def normalized(values):
    channels = values["layernorm_weight"].shape
    return functional.layer_norm(
        values["layernorm_input"], channels, values["layernorm_weight"], values["layernorm_bias"], 1e-5
    )


@pytest.mark.parametrize("bits", BITS)
def test_channel_wise_search_before_reparameterization(bits):
    """From 4 bits on several zero points of a channel give the same values: only errors are compared there."""
    values = golden("layernorm_linear", bits)
    ascending = normalized(values).flatten(0, 1).T.contiguous().sort(1).values
    grid = uniform_grid(ascending, bits, activation_zero_points(bits), 128, 1e-4)
    scale, zero_point = AlternatingSearch().on_itself(UniformFormat(bits), ascending, grid)
    error = SelfError(UniformFormat(bits), ascending)
    theirs = values["channel_scale"], values["channel_zero_point"]
    mine_error, their_error = (error(s.view(-1, 1, 1), z.view(-1, 1), 1) for s, z in ((scale, zero_point), theirs))
    assert mine_error.sum() <= their_error.sum() * AS_GOOD
    if bits <= 3:
        torch.testing.assert_close(scale, theirs[0], rtol=SAME_SCALE, atol=0)
        assert torch.equal(zero_point, theirs[1])


@pytest.mark.parametrize("bits", BITS)
def test_layer_after_the_authors_reparameterization(bits):
    values = golden("layernorm_linear", bits)
    found = reparameterize(values["channel_scale"], values["channel_zero_point"])
    weight, bias = transform_layer(values["weight"], values["bias"], found.channel_scale, found.channel_shift)
    torch.testing.assert_close(weight, values["weight_after"], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(bias, values["bias_after"], atol=1e-5, rtol=1e-5)
    inputs = transform_input(normalized(values), found.channel_scale, found.channel_shift)
    compare_linear(linear(weight, bias), inputs, values, bits)


@pytest.mark.parametrize("bits", BITS)
def test_layer_after_gelu(bits):
    values = golden("postgelu_linear", bits)
    layer, x = linear(values["weight"], values["bias"]), values["input"]
    state, error = ours("fc2", layer, (x,), bits)
    weight = fake_quantize_affine(layer.weight, *authors_weight(values), bits)
    quantize = AdaLogQuantizer(
        values["activation_scale"].squeeze(), values["log_base_q"].squeeze(), bits, GELU_SHIFT, GELU_SHIFT
    )
    theirs = functional.linear(quantize(x), weight, layer.bias)
    torch.testing.assert_close(theirs, values["output"], atol=2e-5, rtol=1e-4)
    assert error <= (theirs - layer(x)).square().sum().item() * AS_GOOD
    if bits < 8:
        assert state["input_log_base"] == values["log_base_q"]
        assert state["input_scale"].item() == pytest.approx(values["activation_scale"].item(), rel=SAME_SCALE)


def head_wise(values, name, bits):
    scale, zero_point = values[f"{name}_scale"].view(-1, 1, 1), values[f"{name}_zero_point"].view(-1, 1, 1)
    return fake_quantize_affine(values[name], scale, zero_point, bits)


@pytest.mark.parametrize("bits", BITS)
def test_attention_scores(bits):
    values = golden("qk", bits)
    inputs = (values["q"], values["k"].mT)
    state, error = ours("qk", MatMul(), inputs, bits)
    theirs = head_wise(values, "q", bits) @ head_wise(values, "k", bits).mT
    assert error <= (theirs - inputs[0] @ inputs[1]).square().sum().item() * AS_GOOD
    if 1 < bits < 8:
        # One bit: the keys start as zeros in some heads, and all candidates of the queries are equal.
        assert torch.equal(state["a_zero_point"], values["q_zero_point"])
        torch.testing.assert_close(state["a_scale"], values["q_scale"], rtol=SAME_SCALE, atol=0)


@pytest.mark.parametrize("bits", BITS)
def test_attention_output(bits):
    values = golden("pv", bits)
    inputs = (values["p"], values["v"])
    state, error = ours("pv", MatMul(), inputs, bits)
    probabilities = AdaLogQuantizer(torch.ones((), dtype=torch.float64), values["log_base_q"].squeeze(), bits)
    theirs = probabilities(values["p"]) @ head_wise(values, "v", bits)
    assert error <= (theirs - inputs[0] @ inputs[1]).square().sum().item() * AS_GOOD
    assert state["a_log_base"] == values["log_base_q"]
    if bits < 8:
        assert torch.equal(state["b_zero_point"], values["v_zero_point"])
        torch.testing.assert_close(state["b_scale"], values["v_scale"], rtol=SAME_SCALE, atol=0)


@pytest.mark.parametrize("bits", BITS)
def test_patch_embedding(bits):
    values = golden("patch", bits)
    layer = nn.Conv2d(3, 12, 4, 4).double().requires_grad_(False)
    layer.weight.copy_(values["weight"])
    layer.bias.copy_(values["bias"])
    _, error = ours("patch_embed", layer, (values["input"],), bits)
    weight = fake_quantize_affine(values["weight"], *authors_weight(values), bits)
    theirs = functional.conv2d(values["input"], weight, values["bias"], 4)
    torch.testing.assert_close(theirs, values["output"], atol=2e-5, rtol=1e-4)
    assert error <= (theirs - layer(values["input"])).square().sum().item() * AS_GOOD
