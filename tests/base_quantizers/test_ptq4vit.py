"""PTQ4ViT: what the search finds against replaying the layer for every candidate, and every option."""

import pytest
import torch

from lampq.base_quantizers.ptq4vit import PTQ4ViT
from lampq.calibration.observation import Observer
from lampq.calibration.output_gradients import OutputGradients
from lampq.errors import LampQError
from lampq.number_formats.twin_uniform import (
    fake_quantize_overlapping,
    fake_quantize_post_gelu,
    fake_quantize_probabilities,
)
from lampq.number_formats.uniform import fake_quantize_symmetric
from lampq.plan.bits import Bits
from tests.base_quantizers.example_sites import example, site
from tests.small_models import search_over, swin_adapter, vit_adapter

BITS = 4
HALF = 2 ** (BITS - 1)
STEPS = 20
FRACTIONS = 0.01 + (1.2 - 0.01) * torch.arange(STEPS) / STEPS


def ptq4vit(**options):
    return PTQ4ViT(**{"candidates": STEPS, **options})


def gradient_of(kind, seed=3):
    """An example site and a made-up gradient, a few elements of which count much more than the others."""
    layer, inputs = example(kind)
    output = layer(*inputs)
    return layer, inputs, torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)) ** 3


def symmetric(x, scale):
    return fake_quantize_symmetric(x, scale, BITS)


def first_smallest(errors):
    return min(range(len(errors)), key=lambda index: errors[index])


def replayed(scales, output, target, gradient):
    """The scale whose output, weighted, is nearest to the target."""
    return scales[first_smallest([((output(s) - target) * gradient).double().square().sum() for s in scales])]


def searched_layer(weight, x, gradient, quantize_input, largest_input, groups, rounds=3):
    """Algorithm 1 for a linear layer in its most direct form: weight scales, input scale."""
    rows, target = weight.chunk(groups), x @ weight.T
    targets, gradients = target.chunk(groups, -1), gradient.chunk(groups, -1)
    starts = [part.abs().max() / (HALF - 0.5) for part in rows]
    scales, input_scale = list(starts), largest_input / (HALF - 0.5)
    input_scales = input_scale * FRACTIONS
    for _ in range(rounds):
        seen = quantize_input(x, input_scale)
        scales = [
            replayed(start * FRACTIONS, lambda s, part=part, seen=seen: seen @ symmetric(part, s).T, own, g)
            for part, start, own, g in zip(rows, starts, targets, gradients, strict=True)
        ]
        quantized = torch.cat([symmetric(part, s) for part, s in zip(rows, scales, strict=True)])
        input_scale = replayed(input_scales, lambda s, w=quantized: quantize_input(x, s) @ w.T, target, gradient)
    return torch.stack(scales), input_scale.view(1)


@pytest.mark.parametrize(
    ("kind", "groups"), [("qkv", 3), ("proj", 1), ("fc1", 1), ("fc2", 1), ("reduction", 1), ("head", 1)]
)
def test_layers_get_what_replaying_them_for_every_candidate_finds(kind, groups):
    layer, (x,), gradient = gradient_of(kind)
    state = ptq4vit().calibrate(site(kind), layer, (x,), Bits(BITS, BITS), gradient)
    if kind == "fc2":
        expected = searched_layer(
            layer.weight, x, gradient, lambda x, s: fake_quantize_post_gelu(x, s, BITS), x.max(), groups
        )
    else:
        expected = searched_layer(layer.weight, x, gradient, symmetric, x.abs().max(), groups)
    torch.testing.assert_close((state["weight_scale"], state["input_scale"]), expected)


@pytest.mark.parametrize("literal", [False, True])
def test_attention_output_gets_what_replaying_it_finds(literal):
    layer, (p, v), gradient = gradient_of("pv")
    state = ptq4vit(literal=literal).calibrate(site("pv"), layer, (p, v), Bits(None, BITS), gradient)
    quantize = fake_quantize_overlapping if literal else fake_quantize_probabilities
    starts, target = v.abs().amax((0, 2, 3)) / (HALF - 0.5), p @ v
    splits, split, scales = [2.0**-i for i in range(20)], None, list(starts)
    for _ in range(3):
        heads = torch.stack([symmetric(v[:, h], s) for h, s in enumerate(scales)], 1)
        seen = v if literal else heads
        split = replayed(splits, lambda s, seen=seen: quantize(p, s, BITS) @ seen, target, gradient)
        seen = quantize(p, split, BITS)
        scales = [
            replayed(
                start * FRACTIONS,
                lambda s, h=h, seen=seen: seen[:, h] @ symmetric(v[:, h], s),
                target[:, h],
                gradient[:, h],
            )
            for h, start in enumerate(starts)
        ]
    assert state["a_split"].item() == split
    torch.testing.assert_close(state["b_scale"], torch.stack(scales))


def test_attention_scores_get_what_replaying_them_finds():
    layer, (q, k), gradient = gradient_of("qk")
    state = ptq4vit().calibrate(site("qk"), layer, (q, k), Bits(None, BITS), gradient)
    for h in range(q.shape[1]):
        a, b, g = q[:, h], k[:, h], gradient[:, h]
        first, second = (x.abs().max() / (HALF - 0.5) for x in (a, b))
        firsts, seconds = first * FRACTIONS, second * FRACTIONS
        for _ in range(3):
            seen = symmetric(b, second)
            first = replayed(firsts, lambda s, a=a, seen=seen: symmetric(a, s) @ seen, a @ b, g)
            seen = symmetric(a, first)
            second = replayed(seconds, lambda s, b=b, seen=seen: seen @ symmetric(b, s), a @ b, g)
        torch.testing.assert_close((state["a_scale"][h], state["b_scale"][h]), (first, second))


def test_the_patch_embedding_gets_a_scale_a_row():
    layer, (x,), gradient = gradient_of("patch_embed")
    state = ptq4vit().calibrate(site("patch_embed"), layer, (x,), Bits(BITS, None), gradient)
    target = torch.conv2d(x, layer.weight, None, layer.stride)
    for row, weight in enumerate(layer.weight):
        scales = weight.abs().max() / (HALF - 0.5) * FRACTIONS
        expected = replayed(
            scales,
            lambda s, weight=weight: torch.conv2d(x, symmetric(weight, s)[None], None, layer.stride)[:, 0],
            target[:, row],
            gradient[:, row],
        )
        torch.testing.assert_close(state["weight_scale"][row], expected)


def test_the_candidate_nearest_to_min_max_is_number_84_of_100():
    searched = PTQ4ViT().searched(site("proj"), "weight", torch.randn(5, 8), BITS)
    distances = (searched.candidates - searched.start).abs()
    assert searched.candidates.shape == (100, 1) and distances.argmin() == 83
    torch.testing.assert_close(searched.candidates[83], 0.9977 * searched.start)


@pytest.mark.parametrize("kind", ["qkv", "fc2", "qk", "pv", "patch_embed"])
def test_equal_gradients_are_the_mean_squared_error(kind):
    layer, inputs, gradient = gradient_of(kind)
    arguments = (site(kind), layer, inputs, Bits(BITS, BITS))
    plain, equal, weighted = (
        ptq4vit().calibrate(*arguments, g) for g in (None, torch.full_like(gradient, -0.2), gradient)
    )
    assert all(torch.equal(plain[name], equal[name]) for name in plain)
    assert any(not torch.equal(plain[name], weighted[name]) for name in plain)


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("candidates", 30, "proj"),
        ("rounds", 1, "qkv"),
        ("alpha", 0.3, "proj"),
        ("beta", 2.0, "proj"),
        ("literal", True, "pv"),
    ],
)
def test_every_option_of_the_search_changes_what_is_found(option, value, kind):
    layer, inputs, gradient = gradient_of(kind)
    found = [
        method.calibrate(site(kind), layer, inputs, Bits(BITS, BITS), gradient)
        for method in (ptq4vit(), ptq4vit(**{option: value}))
    ]
    assert any(not torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert ptq4vit().settings() != ptq4vit(**{option: value}).settings()


def test_literal_probabilities_are_the_overlapping_ones():
    layer, (p, v), gradient = gradient_of("pv")
    state = ptq4vit(literal=True).calibrate(site("pv"), layer, (p, v), Bits(None, BITS), gradient)
    modules = [
        ptq4vit(literal=literal).quantized_module(site("pv"), layer, state, Bits(None, BITS))
        for literal in (True, False)
    ]
    assert torch.equal(modules[0].quantize_a(p), fake_quantize_overlapping(p, state["a_split"], BITS))
    assert not torch.equal(modules[0](p, v), modules[1](p, v))


@pytest.mark.parametrize("model", [lambda: vit_adapter(1), swin_adapter], ids=["vit", "swin"])
def test_the_bank_hands_over_the_gradients_that_the_metric_asks_for(model, tmp_path):
    """And its entries differ by metric and by labels."""
    found = {}
    for metric, labels in (("hessian", "sampled"), ("hessian", "most_likely"), ("mse", "sampled")):
        method = ptq4vit(metric=metric, labels=labels, rounds=1)
        search = search_over(model(), tmp_path, base_quantizer=method, calibration_images=4)
        adapter, pictures = search.adapter, search.task.calibration_images
        observer = Observer(adapter, lambda pictures=pictures: pictures)
        gradients = OutputGradients(observer, labels)
        for s in [adapter.sites[0], *adapter.sites[-3:]]:
            gradient = gradients.at_site(s) if metric == "hessian" else None
            expected = method.calibrate(s, adapter.module(s.name), observer.inputs(s), Bits(BITS, BITS), gradient)
            entry = search.bank.entry(s, Bits(BITS, BITS))
            assert entry.keys() == expected.keys()
            assert all(torch.equal(entry[name], expected[name]) for name in entry), s.name
            found.setdefault((metric, labels), []).extend(entry.values())
    values = [torch.cat(tensors) for tensors in found.values()]
    assert all(not torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])


def test_labels_do_not_matter_where_no_gradient_is_asked_for():
    assert ptq4vit(metric="mse").settings() == ptq4vit(metric="mse", labels="most_likely").settings()
    assert ptq4vit(metric="mse").gradient_labels is None and ptq4vit().gradient_labels == "sampled"


def test_a_value_out_of_range_is_named():
    for options, line in [
        ({"alpha": 1.2}, r"base_quantizer\.alpha=1\.2: must be below base_quantizer\.beta=1\.2"),
        ({"alpha": 0}, r"base_quantizer\.alpha=0"),
        ({"labels": "dataset"}, r"base_quantizer\.labels=dataset"),
        ({"metric": "cosine"}, r"base_quantizer\.metric=cosine"),
        ({"candidates": 1}, r"base_quantizer\.candidates=1"),
        ({"literal": 1}, r"base_quantizer\.literal=1"),
    ]:
        with pytest.raises(LampQError, match=line):
            PTQ4ViT(**options)
            pytest.fail(f"accepted: {options}, {line}")
