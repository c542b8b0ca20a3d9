"""Hessian traces: exact products, unbiased estimates whose error is the one reported, and a model left as it was."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lampq.sensitivity import hessian_trace
from lampq.sensitivity.hessian_trace import hessian_traces, random_signs
from tests.small_models import images, swin_adapter, vit_adapter


def layers_of(adapter):
    return [site.name for site in adapter.sites if site.allocated]


def softmax_layer(inputs=6, classes=5):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(inputs, classes)).double().eval()
    return model, torch.randn(4, inputs, dtype=torch.float64), torch.tensor([0, 1, 2, 3])


def exact_traces(model, names, x, y):
    """The diagonal blocks of the Hessian, written out."""
    traces = []
    for name in names:
        weight = model.get_submodule(name).weight.detach()

        def loss(flat, name=name, shape=weight.shape):
            logits = torch.func.functional_call(model, {f"{name}.weight": flat.view(shape)}, (x,))
            return F.cross_entropy(logits, y)

        traces.append(torch.autograd.functional.hessian(loss, weight.flatten()).diagonal().sum())
    return torch.stack(traces)


def test_the_softmax_layer_has_the_known_trace():
    """For logits W x the Hessian of -log p(y) is ``(diag(p) - p p^T) (x) x x^T``, whatever the label."""
    model, x, y = softmax_layer()
    p = model(x).detach().softmax(1)
    expected = (x.square().sum(1) * (1 - p.square().sum(1))).mean()
    found = hessian_traces(model, ["0"], x, y, probes=4000, seed=0)
    assert abs(found.trace - expected) < 4 * found.standard_error and found.standard_error < 0.02 * expected
    torch.testing.assert_close(exact_traces(model, ["0"], x, y)[0], expected, rtol=1e-10, atol=0)


def two_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 3)).double().eval()
    return model, torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])


def test_layers_together_have_the_traces_of_their_own_blocks():
    model, x, y = two_layers()
    expected = exact_traces(model, ["0", "2"], x, y)
    found = hessian_traces(model, ["0", "2"], x, y, probes=8000, seed=0)
    assert ((found.trace - expected).abs() < 4 * found.standard_error).all()
    assert found.standard_error.max() < 0.04 * expected.abs().max()


def test_the_error_is_the_one_reported_and_halves_with_four_times_the_probes():
    """Over many seeds, estimates scatter about the exact trace as each of them says."""
    model, x, y = two_layers()
    expected = exact_traces(model, ["0", "2"], x, y)

    def scatter(probes):
        runs = [hessian_traces(model, ["0", "2"], x, y, probes=probes, seed=seed) for seed in range(60)]
        off = torch.stack([run.trace - expected for run in runs])
        said = torch.stack([run.standard_error for run in runs]).square().mean(0).sqrt()
        return off.square().mean(0).sqrt(), said

    (few, said_few), (many, said_many) = scatter(8), scatter(32)
    torch.testing.assert_close(few, said_few, rtol=0.3, atol=0)
    torch.testing.assert_close(many, said_many, rtol=0.3, atol=0)
    torch.testing.assert_close(said_few / said_many, torch.full((2,), 2.0, dtype=torch.float64), rtol=0.15, atol=0)


@pytest.mark.parametrize("build", [vit_adapter, swin_adapter], ids=["vit", "swin"])
def test_products_are_those_of_finite_differences(build):
    """z_i^T (H z)_i from gradients a little to either side, through attention, windows and LayerNorms."""
    adapter = build()
    network, names = adapter.network.double(), layers_of(adapter)
    x, y = images(adapter, 3).double(), torch.arange(3)
    found = hessian_traces(network, names, x, y, probes=1, seed=5).samples[0]
    weights = [network.get_submodule(name).weight.detach() for name in names]
    (probe,) = torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(5)).tolist()
    signs = random_signs(weights, probe)

    def gradients(step):
        moved = [(w + step * z).requires_grad_() for w, z in zip(weights, signs, strict=True)]
        tensors = {f"{name}.weight": w for name, w in zip(names, moved, strict=True)}
        return torch.autograd.grad(F.cross_entropy(torch.func.functional_call(network, tensors, (x,)), y), moved)

    step = 1e-5
    ahead, behind = gradients(step), gradients(-step)
    expected = [(z * (a - b)).sum() / (2 * step) for z, a, b in zip(signs, ahead, behind, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_chunks_do_not_matter(chunk):
    adapter = vit_adapter()
    network = adapter.network.double()
    x, y = images(adapter, 5).double(), torch.arange(5)
    usual = hessian_traces(network, layers_of(adapter), x, y, probes=3, seed=0)
    other = hessian_traces(network, layers_of(adapter), x, y, probes=3, seed=0, chunk=chunk)
    torch.testing.assert_close(other.samples, usual.samples, rtol=1e-9, atol=1e-10)


def test_single_precision_is_good_enough():
    x, y = images(vit_adapter(), 4), torch.arange(4)
    single = hessian_traces(vit_adapter().network, layers_of(vit_adapter()), x, y, probes=2, seed=0).samples
    double = hessian_traces(
        vit_adapter().network.double(), layers_of(vit_adapter()), x.double(), y, probes=2, seed=0
    ).samples
    torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-3)


def test_more_probes_begin_with_the_same_ones_and_another_seed_has_others():
    model, x, y = softmax_layer()
    few, more = (hessian_traces(model, ["0"], x, y, probes=n, seed=0).samples for n in (3, 40))
    assert torch.equal(few, more[:3]) and len(more.unique()) > 30
    assert not torch.equal(few, hessian_traces(model, ["0"], x, y, probes=3, seed=1).samples)


def test_signs_are_fair_and_independent():
    a, b = random_signs([torch.empty(200, 100), torch.empty(20_000)], seed=0)
    assert set(a.unique().tolist()) == {-1.0, 1.0} and a.dtype == torch.float32
    for mean in (a.mean(), b.mean(), (a.flatten() * b).mean()):
        assert abs(mean) < 4 / 20_000**0.5


def test_the_model_is_left_as_it_was_even_after_an_error():
    adapter = vit_adapter()
    before = adapter.weights_hash()
    with torch.no_grad():
        hessian_traces(adapter.network, layers_of(adapter), images(adapter, 2), torch.arange(2), probes=2, seed=0)
        assert not torch.is_grad_enabled()
    with pytest.raises(IndexError):
        hessian_traces(adapter.network, layers_of(adapter), images(adapter, 1), torch.tensor([99]), probes=2, seed=0)
    assert adapter.weights_hash() == before
    assert not any(p.requires_grad or p.grad is not None for p in adapter.network.parameters())


def test_a_product_costs_what_is_said_and_the_first_passes_are_shared():
    adapter = vit_adapter()
    x, y = images(adapter, 2), torch.arange(2)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        adapter.run(x)

    def cost(probes):
        with FlopCounterMode(display=False) as counter:
            hessian_traces(adapter.network, layers_of(adapter), x, y, probes=probes, seed=0)
        return counter.get_total_flops() / forward.get_total_flops()

    assert cost(1) < 9 and 5 < cost(3) - cost(2) < 6


def test_progress_counts_products():
    adapter, seen = vit_adapter(), []
    hessian_traces(
        adapter.network, layers_of(adapter), images(adapter, 3), torch.arange(3), probes=2, seed=0, progress=seen.append
    )
    assert seen == [3, 3] and hessian_trace.CHUNK == 8
