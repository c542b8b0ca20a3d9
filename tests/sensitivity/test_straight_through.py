"""Straight-through gradients: quantized values, the derivatives of full precision, and the model left alone."""

import pytest
import torch

from lampq.bank.quantized_model import QuantizedModel
from lampq.base_quantizers.aphq_vit import APHQViT
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.sensitivity.output_fisher import OutputFisher
from lampq.sensitivity.straight_through import straight_through
from tests.allocation.budgets import budget
from tests.small_models import images, search_over, swin_adapter, vit_adapter


@pytest.fixture(params=[vit_adapter, swin_adapter], ids=["vit", "swin"])
def search(request, tmp_path):
    return search_over(request.param(), tmp_path)


def uniform(search, bits):
    """Everything at these bits."""
    return budget(bits, (bits,)).plan(search.adapter.sites, {s.name: bits for s in search.layers})


def test_it_computes_what_the_quantized_model_does(search):
    plan, pictures = uniform(search, 3), images(search.adapter, 4)
    expected = QuantizedModel(search.adapter, search.bank).apply(plan).adapter.run(pictures)
    model = straight_through(search.adapter, search.bank, plan)
    torch.testing.assert_close(model.run(pictures), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(search.adapter.run(pictures), expected, atol=0.01)
    assert not any(m._forward_hooks for m in search.adapter.network.modules())


@pytest.mark.parametrize("searched", ["block_bank", "exact"])
def test_it_computes_what_a_realised_network_does(tmp_path, searched):
    """Here MLPs are trained anew with a ReLU, which is no site."""
    method = APHQViT(iterations=2, images=6, batch_size=4, candidates=32, rounds=1, search=searched)
    search = search_over(vit_adapter(2), tmp_path, base_quantizer=method)
    plan, pictures = uniform(search, 3), images(search.adapter, 4)
    expected = search.scored_model().apply(plan).adapter.run(pictures)
    model = straight_through(search.adapter, search.scored_from, plan)
    torch.testing.assert_close(model.run(pictures), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(straight_through(search.adapter, search.bank, plan).run(pictures), expected, atol=0.01)


def test_gradients_are_those_of_full_precision_where_nothing_is_quantized(search):
    pictures = images(search.adapter, 2)

    def gradient(adapter):
        batch = pictures.clone().requires_grad_()
        return torch.autograd.grad(adapter.run(batch).square().sum(), batch)[0]

    exact = gradient(search.adapter)
    same = gradient(straight_through(search.adapter, search.bank, BitPlan.full_precision(search.adapter.sites)))
    assert torch.equal(exact, same)
    quantized = gradient(straight_through(search.adapter, search.bank, uniform(search, 3)))
    assert quantized.isfinite().all() and quantized.abs().sum() > 0 and not torch.allclose(quantized, exact)
    nearly = gradient(straight_through(search.adapter, search.bank, uniform(search, 8)))
    assert (nearly - exact).norm() < 0.3 * (quantized - exact).norm()


def test_a_linear_layer_has_the_derivative_of_its_original_weights(search):
    site = search.layers[1]
    plan = BitPlan.full_precision(search.adapter.sites).with_bits({site.name: (2, 2)})
    layer = straight_through(search.adapter, search.bank, plan).module(site.name)
    x = torch.randn(5, layer.in_features, requires_grad=True)
    y = layer(x)
    torch.testing.assert_close(y, search.bank.module(site, Bits(2, 2))(x.detach()), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, layer.weight.sum(0).expand(5, -1), rtol=1e-5, atol=1e-6)


def test_output_scores_in_a_quantized_model_are_its_own(search):
    exact = OutputFisher().scores(search, budget())
    at_three, at_eight = (OutputFisher().scores(search, budget(), uniform(search, b)) for b in (3, 8))
    name = search.layers[-1].name
    assert at_three[name] != exact[name] and at_eight[name] != exact[name]
    assert abs(at_eight[name][2] / exact[name][2] - 1) < abs(at_three[name][2] / exact[name][2] - 1) + 0.5
    assert OutputFisher().scores(search, budget()) == exact, "each lies in the store by itself"
