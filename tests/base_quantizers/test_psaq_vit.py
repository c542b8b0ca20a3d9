"""PSAQ-ViT's quantizer: its two formats as the authors' code answers, and a whole ViT against a plain forward pass."""

from pathlib import Path

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional

from lampq.bank.quantized_model import QuantizedModel
from lampq.base_quantizers.psaq_vit import PSAQViT
from lampq.errors import LampQError
from lampq.number_formats.uniform import affine_from_range, fake_quantize_affine
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from lampq.plan.sites import Site
from tests.base_quantizers.example_sites import TYPES, example, site
from tests.small_models import images, search_over, swin_adapter, vit_adapter

GOLDEN = Path(__file__).parent.parent / "golden"
TENSOR = Site("tensors.embedding", "embedding", None, parameters=0, macs=0, input_elements=0)


def golden(name):
    with numpy.load(GOLDEN / f"psaq_{name}bit.npz") as arrays:
        return {key: torch.tensor(arrays[key], dtype=torch.float32) for key in arrays.files}


def module(kind, layer, inputs, *bits):
    state = PSAQViT().calibrate(kind, layer, inputs, Bits(*bits))
    return PSAQViT().quantized_module(kind, layer, state, Bits(*bits))


@pytest.mark.parametrize("bits", [4, 8])
def test_activations_are_the_authors(bits):
    values = golden(f"activation_{bits}")
    quantized = module(TENSOR, nn.Identity(), (values["input"],), None, bits)
    assert torch.equal(quantized(values["input"]), values["output"])


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_the_authors(bits):
    values = golden(f"weight_{bits}")
    layer = nn.Linear(values["weight"].shape[1], values["weight"].shape[0]).requires_grad_(False)
    layer.weight.copy_(values["weight"])
    quantized = module(site("proj"), layer, (torch.zeros(1, layer.in_features),), bits, None)
    assert torch.equal(quantized.weight, values["output"])
    codes = quantized.weight / (layer.weight.abs().amax(1, keepdim=True) / ((2**bits - 1) / 2))
    assert codes.round().max() == 2 ** (bits - 1) - 1 and codes.round().min() >= -(2 ** (bits - 1))


def test_weights_and_activations_have_bits_of_their_own():
    layer, inputs = example("proj")
    both = module(site("proj"), layer, inputs, 4, 8)
    assert torch.equal(both.weight, module(site("proj"), layer, inputs, 4, None).weight)
    assert len(both.quantize_input(inputs[0]).unique()) > 2**4
    assert max(len(row.unique()) for row in both.weight) <= 2**4


@pytest.mark.parametrize("kind", ["qk", "pv"])
def test_matmuls_quantize_what_they_give_and_not_what_they_are_given(kind):
    layer, inputs = example(kind)
    product = layer(*inputs)
    expected = fake_quantize_affine(product, *affine_from_range(product.amin(), product.amax(), 4), 4)
    assert torch.equal(module(site(kind), layer, inputs, None, 4)(*inputs), expected)


def test_dead_rows_and_dead_tensors_stay_what_they_are():
    layer = nn.Linear(8, 4).requires_grad_(False)
    layer.weight[1] = 0
    zeros = torch.zeros(2, 3, 8)
    quantized = module(site("proj"), layer, (zeros,), 2, 2)
    assert torch.equal(quantized.weight[1], layer.weight[1])
    assert torch.equal(quantized(zeros), layer.bias.expand(2, 3, 4))


def test_what_is_not_finite_is_refused_where_it_is():
    with pytest.raises(LampQError, match=r"tensors\.embedding.*NaN"):
        PSAQViT().calibrate(TENSOR, nn.Identity(), (torch.tensor([1.0, float("nan")]),), Bits(None, 4))


@pytest.mark.parametrize("kind", TYPES)
def test_full_precision_is_full_precision(kind):
    layer, inputs = example(kind)
    assert torch.equal(module(site(kind), layer, inputs, None, None)(*inputs), layer(*inputs))


def forward(network, pictures, weights, act):
    """PSAQ-ViT's forward pass of a plain ViT, written down once more.

    Args:
        weights: what is done to a weight ``[out channels, ...]``.
        act: what is done to a tensor, given its place.
    """

    def linear(x, layer):
        return functional.linear(x, weights(layer.weight), layer.bias)

    embedding = network.patch_embed.proj
    x = functional.conv2d(act("image", pictures), weights(embedding.weight), embedding.bias, embedding.stride)
    x = act("patches", x.flatten(2).mT)
    x = act("tokens", torch.cat([network.cls_token.expand(len(x), -1, -1), x], 1))
    x = act("embedding", x + act("positions", network.pos_embed))
    for index, block in enumerate(network.blocks):
        attention, shape = block.attn, (*x.shape[:2], 3, block.attn.num_heads, -1)
        qkv = act(f"{index} qkv", linear(act(f"{index} norm1", block.norm1(x)), attention.qkv))
        q, k, v = qkv.view(shape).permute(2, 0, 3, 1, 4)
        scores = act(f"{index} scores", q @ k.mT)
        out = (scores * attention.scale).softmax(-1) @ v
        out = act(f"{index} heads", out.transpose(1, 2).flatten(2))
        x = act(f"{index} sum1", x + act(f"{index} proj", linear(out, attention.proj)))
        hidden = functional.gelu(linear(act(f"{index} norm2", block.norm2(x)), block.mlp.fc1))
        x = act(f"{index} sum2", x + act(f"{index} fc2", linear(act(f"{index} gelu", hidden), block.mlp.fc2)))
    return act("logits", linear(act("head", network.norm(x)[:, 0]), network.head))


@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(4, 8), (8, 8), (3, 4)])
def test_a_whole_vit_is_quantized_where_the_authors_quantize(weight_bits, activation_bits, tmp_path):
    search = search_over(vit_adapter(2), tmp_path, base_quantizer=PSAQViT(), calibration_images=5)
    network = search.adapter.network

    def rows(weight):
        scale = weight.flatten(1).abs().amax(1).view(-1, *[1] * (weight.dim() - 1)) / ((2**weight_bits - 1) / 2)
        half = 2 ** (weight_bits - 1)
        return (weight / scale).round().clamp(-half, half - 1) * scale

    ranges = {}

    def observe(place, x):
        ranges[place] = x.amin(), x.amax()
        return x

    def quantize(place, x):
        low, high = ranges[place]
        scale = (high - low) / (2**activation_bits - 1)
        zero_point = (-low / scale).round().clamp(0, 2**activation_bits - 1)
        codes = ((x / scale).round() + zero_point).clamp(0, 2**activation_bits - 1)
        return (codes - zero_point) * scale

    rules = Budget(weight_bits, activation_bits, (weight_bits,), "fixed", (weight_bits, activation_bits), "target")
    plan = rules.plan(search.adapter.sites, {s.name: weight_bits for s in search.layers})
    pictures = images(search.adapter, 4, seed=7)
    with torch.inference_mode():
        forward(network, search.task.calibration_images, lambda weight: weight, observe)
        expected = forward(network, pictures, rows, quantize)
        logits = QuantizedModel(search.adapter, search.bank).apply(plan).adapter.run(pictures)
        # A value that rounding puts on the other side of a step is one step of the logits away, at most.
        step = (ranges["logits"][1] - ranges["logits"][0]) / (2**activation_bits - 1)
        assert (logits - expected).abs().max() <= 1.01 * step
        assert (logits != expected).float().mean() < 0.1
        full_precision = search.adapter.run(pictures)
    assert not torch.allclose(expected, full_precision, atol=step.item() / 2)


def test_every_site_of_a_swin_is_quantized(tmp_path):
    search = search_over(swin_adapter(), tmp_path, base_quantizer=PSAQViT(), calibration_images=3)
    rules = Budget(4, 4, (4,), "fixed", (4, 4), "target")
    plan = rules.plan(search.adapter.sites, {s.name: 4 for s in search.layers})
    quantized = QuantizedModel(search.adapter, search.bank).apply(plan).adapter
    values = {}
    for s in quantized.sites:
        if s.is_tensor or s.is_matmul:
            quantized.module(s.name).register_forward_hook(
                lambda _, __, output, name=s.name: values.update({name: len(output.unique())})
            )
    logits = quantized.run(images(search.adapter, 3, seed=5))
    assert logits.isfinite().all() and set(values) == {s.name for s in quantized.sites if s.is_tensor or s.is_matmul}
    assert all(2 < count <= 2**4 for count in values.values()), values
