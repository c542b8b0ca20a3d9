"""Relevance: kept on its way from output to input, biases accounted for, the rules, and the layers' shares."""

import copy

import pytest
import torch
from torch import nn

from lampq.errors import LampQError
from lampq.models.timm_adapters import adapt
from lampq.sensitivity.relevance import (
    ConstantDeviationNorm,
    ConstantRatio,
    layer_relevances,
    relevance_importance,
    relevance_model,
)
from lampq.transform.hadamard import Hadamard
from tests.small_models import (
    VIT_SIDE,
    distilled_adapter,
    images,
    search_over,
    swin_adapter,
    vision_transformer,
    vit_adapter,
)

NOTHING = 1e-30
"""An epsilon that takes nothing of any output but zero."""
MODELS = {"vit": vit_adapter, "swin": swin_adapter, "distilled": distilled_adapter}
MODELS["rotated"] = lambda: Hadamard().apply(vit_adapter())


@pytest.fixture(params=MODELS)
def adapter(request):
    built = MODELS[request.param]()
    built.network.double()
    return built


def without_biases(adapter):
    """Nothing is added anywhere but by the images themselves."""
    with torch.no_grad():
        for name, parameter in adapter.network.named_parameters():
            if name.endswith("bias") or name.endswith(("pos_embed", "_token")):
                parameter.zero_()
    return adapter


def relevances(adapter, epsilon):
    """Sums of relevance at each segment's input ``[segments, images]``, the logit ``[images]``, what constants keep."""
    model = relevance_model(adapter, epsilon)
    model.network = copy.deepcopy(model.network)  # the constants' gradients are asked for: not of the original
    kept = [
        p.requires_grad_()
        for name, p in model.network.named_parameters()
        if (name.endswith(("bias", "pos_embed", "_token")))
    ]
    state = images(adapter, 3).double().requires_grad_()
    states = [state]
    for index in range(model.segments):
        states.append(model.run_segment(index, states[-1]))
    logit = states[-1].max(1).values
    assert torch.allclose(states[-1], adapter.run(states[0].detach()), rtol=1e-10, atol=1e-12), "it computes the same"
    found = torch.autograd.grad(logit.sum(), [*states[:-1], *kept], allow_unused=True)
    of_states, of_constants = found[: model.segments], found[model.segments :]
    sums = torch.stack([(s * g).flatten(1).sum(1) for s, g in zip(states, of_states, strict=False)]).detach()
    constants = sum((p * g).sum() for p, g in zip(kept, of_constants, strict=True) if g is not None)
    return sums, logit.detach(), constants.detach()


def test_without_biases_every_segment_hands_on_all_that_it_gets(adapter):
    sums, logit, constants = relevances(without_biases(adapter), epsilon=1e-6)
    assert constants == 0 and logit.min() > 0.1
    # What the epsilon rule takes is epsilon for an output of one.
    torch.testing.assert_close(sums, logit.expand_as(sums), rtol=1e-3, atol=1e-4)
    exact, logit, _ = relevances(adapter, epsilon=NOTHING)
    torch.testing.assert_close(exact, logit.expand_as(exact), rtol=1e-9, atol=1e-9)


def test_with_biases_the_rest_is_what_they_keep(adapter):
    sums, logit, constants = relevances(adapter, epsilon=NOTHING)
    assert (sums[0] - logit).abs().min() > 0.01, "biases keep something"
    torch.testing.assert_close(sums[0].sum() + constants, logit.sum(), rtol=1e-9, atol=1e-9)


def test_the_epsilon_rule_is_that_of_bach_et_al():
    network = nn.Sequential(nn.Linear(3, 2))
    model = vit_adapter()
    model.network = network.double()
    model.sites = ()
    linear = relevance_model(model, epsilon=0.5).network[0]
    x = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    y = linear(x)
    arriving = torch.tensor([[0.7, -0.4]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(y, x, arriving / y.detach())
    weight, y = linear.weight.detach(), y.detach()
    expected = torch.stack(
        [
            sum(x[0, j].detach() * weight[i, j] * arriving[0, i] / (y[0, i] + 0.5 * y[0, i].sign()) for i in range(2))
            for j in range(3)
        ]
    )
    torch.testing.assert_close((x * gradient)[0].detach(), expected, rtol=1e-12, atol=0)


def test_a_layernorm_is_linear_in_all_but_its_deviation():
    norm = nn.LayerNorm(6).double()
    with torch.no_grad():
        norm.weight.copy_(torch.rand(6) + 0.5)
        norm.bias.zero_()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    y = ConstantDeviationNorm(norm)(x)
    torch.testing.assert_close(y, norm(x), rtol=1e-12, atol=1e-12)
    arriving = torch.randn(4, 6, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(y, x, arriving / y.detach())
    torch.testing.assert_close((x * gradient).sum(1).detach(), arriving.sum(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("function", [nn.GELU(), nn.ReLU(), nn.SiLU(), nn.Tanh()])
def test_a_function_of_single_numbers_hands_on_what_it_gets(function):
    x = torch.tensor([-2.0, -0.1, 0.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    y = ConstantRatio(function)(x)
    torch.testing.assert_close(y, function(x), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close((x * gradient).detach(), y.detach(), rtol=1e-12, atol=0)
    assert gradient.isfinite().all()


def test_relevance_goes_through_the_values_alone(adapter):
    """With all relevance rules but this one, queries and keys would have some."""
    site = next(s for s in adapter.sites if s.type == "qkv")
    model = relevance_model(adapter)
    taken = {}
    layer = model.module(site.name)
    layer.register_forward_hook(lambda m, x, y: taken.update(y=y) or y.retain_grad())
    model.run(images(adapter, 2).double().requires_grad_()).max(1).values.sum().backward()
    q, k, v = taken["y"].grad.chunk(3, dim=-1)
    assert not q.any() and not k.any() and v.abs().sum() > 0


def test_shares_sum_to_one_and_are_those_of_a_single_backward_pass(adapter):
    names = [s.name for s in adapter.sites if s.allocated]
    pictures = images(adapter, 6).double()
    shares = layer_relevances(adapter, names, pictures)
    assert shares.shape == (6, len(names)) and shares.dtype == torch.float64 and (shares > 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(layer_relevances(adapter, names, pictures, chunk=2), shares, rtol=1e-9, atol=0)

    # One layer by hand: its output's relevance, from the rest of the model.
    model, taken = relevance_model(adapter), {}
    for name in names:
        model.module(name).register_forward_hook(
            lambda m, x, y, name=name: taken.update({name: y}) or y.retain_grad(), prepend=True
        )
    model.run(pictures[:1].clone().requires_grad_()).max(1).values.sum().backward()
    sizes = torch.stack([(taken[name] * taken[name].grad).abs().sum() for name in names]).detach()
    torch.testing.assert_close(sizes / sizes.sum(), shares[0], rtol=1e-4, atol=0)


def test_the_model_is_left_as_it_was(adapter):
    pictures = images(adapter, 2).double()
    before, modules = adapter.run(pictures), list(adapter.network.modules())
    layer_relevances(adapter, [s.name for s in adapter.sites if s.allocated], pictures)
    assert torch.equal(adapter.run(pictures), before)
    assert all(a is b for a, b in zip(modules, adapter.network.modules(), strict=True))
    assert not any(m._forward_hooks for m in modules)


def test_importance_is_the_mean_share_over_the_first_images_of_d(tmp_path):
    search = search_over(vit_adapter(), tmp_path)
    found = relevance_importance(search, 16)
    names = [s.name for s in search.layers]
    shares = layer_relevances(search.adapter, names, search.task.sample_images[:16])
    assert found == dict(zip(names, shares.mean(0).tolist(), strict=True))
    again = search_over(vit_adapter(), tmp_path)
    assert relevance_importance(again, 16) == found and again.task.dataset.reads["sample"] == 0
    assert relevance_importance(again, 32) != found


def test_a_gate_has_no_rule():
    network = vision_transformer()
    network.blocks[0].attn.gate = nn.Linear(24, 24)
    gated = adapt("gated", network, input_size=(3, VIT_SIDE, VIT_SIDE))
    with pytest.raises(LampQError, match=r"no rule for the gate of blocks\.0\.attn; choose importance=none"):
        relevance_model(gated)


@pytest.mark.parametrize(
    ("changes", "part"), [({"act_layer": "quick_gelu"}, "act"), ({"norm_layer": "rmsnorm"}, "norm")]
)
def test_what_twice_the_input_does_not_double_has_to_have_a_rule(changes, part):
    adapter = vit_adapter(1, **changes)
    with pytest.raises(LampQError, match=rf"no rule for \S*{part}\S* \(\w+\); choose importance=none"):
        layer_relevances(adapter, ["blocks.0.mlp.fc1"], images(adapter, 2))
