"""Reconstruction errors of layers in the model as it is quantized now."""

import pytest
import torch

from lampq.bank.quantized_model import QuantizedModel
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from lampq.sensitivity.reconstruction_error import CHUNK, Reconstruction, reconstruction_errors
from tests.small_models import images, search_over, swin_adapter, vit_adapter

BUDGET = Budget(3, 3, (2, 3, 4), "fixed", (3, 3), "target")


@pytest.fixture(params=[vit_adapter, swin_adapter], ids=["vit", "swin"])
def search(request, tmp_path):
    return search_over(request.param(), tmp_path)


def quantized_at(search, bits=3):
    plan = BUDGET.plan(search.adapter.sites, {site.name: bits for site in search.layers})
    return QuantizedModel(search.adapter, search.bank).apply(plan), plan


def errors(quantized, search, pictures, alternatives=None):
    return reconstruction_errors(quantized.adapter, search.adapter, search.layers, pictures, alternatives)


def by_hand(quantized, search, pictures):
    """||W^ X^ - W X||^2 / ||W X||^2 in float64, X caught in the whole quantized model; no bias anywhere."""
    seen = {}
    handles = [
        quantized.adapter.module(layer.name).register_forward_pre_hook(
            lambda module, operands, name=layer.name: seen.update({name: operands[0]})
        )
        for layer in search.layers
    ]
    with torch.inference_mode():
        quantized.adapter.run(pictures)
    for handle in handles:
        handle.remove()
    found = {}
    for layer in search.layers:
        module, x = quantized.adapter.module(layer.name), seen[layer.name]
        target = x.double() @ search.adapter.module(layer.name).weight.double().T
        product = module.quantize_input(x).double() @ module.weight.double().T
        found[layer.name] = ((product - target).square().sum() / target.square().sum()).item()
    return found


def test_errors_by_hand(search):
    quantized, _ = quantized_at(search)
    pictures = images(search.adapter, CHUNK + 5)  # two chunks
    expected = by_hand(quantized, search, pictures)
    found = errors(quantized, search, pictures)
    assert list(found) == [layer.name for layer in search.layers]
    for name, (error,) in found.items():
        assert error == pytest.approx(expected[name], rel=1e-4)
        assert 1e-3 < error < 10


def test_full_precision_has_no_error(search):
    quantized = QuantizedModel(search.adapter, search.bank)
    quantized.apply(BitPlan.full_precision(search.adapter.sites))
    assert all(error < 1e-12 for (error,) in errors(quantized, search, images(search.adapter, 3)).values())


def test_more_bits_mean_less_error(search):
    pictures = images(search.adapter, 8)
    at = {bits: errors(quantized_at(search, bits)[0], search, pictures) for bits in (2, 4, 8)}
    for name in at[2]:
        assert at[2][name][0] > at[4][name][0] > at[8][name][0] > 0


def test_a_layers_error_reacts_to_the_bits_of_layers_before_it_and_of_no_others(search):
    pictures = images(search.adapter, 8)
    quantized, plan = quantized_at(search)
    before = errors(quantized, search, pictures)
    middle = search.layers[len(search.layers) // 2]
    quantized.apply(plan.with_bits({middle.name: (4, 4)}))
    after = errors(quantized, search, pictures)
    place = search.layers.index(middle)
    for index, layer in enumerate(search.layers):
        assert (after[layer.name] == before[layer.name]) == (index < place), layer.name


def test_alternatives_are_measured_on_the_same_inputs(search):
    """An alternative's error is what the layer has when nothing but itself is changed to it."""
    pictures = images(search.adapter, 8)
    quantized, plan = quantized_at(search)
    alternatives = {
        layer.name: [search.bank.module(layer, Bits(4, 4)), search.bank.module(layer, Bits(2, 2))]
        for layer in search.layers[2:7]
    }
    found = errors(quantized, search, pictures, alternatives)
    for layer in search.layers:
        assert len(found[layer.name]) == (3 if layer.name in alternatives else 1)
    for layer in search.layers[2:7]:
        for place, bits in ((1, 4), (2, 2)):
            quantized.apply(plan.with_bits({layer.name: (bits, bits)}))
            alone = errors(quantized, search, pictures)[layer.name][0]
            assert found[layer.name][place] == pytest.approx(alone, rel=1e-9)
        assert found[layer.name][1] < found[layer.name][0] < found[layer.name][2]


def test_sites_that_are_no_layers_of_a_block_by_hand(search):
    """Of a matmul, the error of the product of its operands; of patch embedding and head, without their biases."""
    sites = {s.type: s for s in search.adapter.sites if not s.allocated}
    options = {s.name: [Bits(None, 2)] if s.is_matmul else [Bits(2, None)] for s in sites.values()}
    found = Reconstruction().site_scores(search, BUDGET, options)
    seen = {}
    handles = [
        search.adapter.module(name).register_forward_hook(
            lambda module, operands, output, name=name: seen.update({name: (operands, output)})
        )
        for name in options
    ]
    search.adapter.run(search.task.calibration_images)
    for handle in handles:
        handle.remove()
    assert {"qk", "pv", "patch_embed", "head"} <= set(sites)
    for name, (bits,) in options.items():
        operands, output = seen[name]
        bias = getattr(search.adapter.module(name), "bias", None)
        shape = (1, -1, 1, 1) if "patch_embed" in name else (-1,)
        product = output if bias is None else output - bias.view(shape)
        error = search.bank.module(search.adapter.site(name), bits)(*operands) - output
        expected = error.double().square().sum() / product.double().square().sum()
        assert found[name][bits] == pytest.approx(expected.item(), rel=1e-4)


def test_no_hook_stays_behind(search):
    quantized, _ = quantized_at(search)
    errors(quantized, search, images(search.adapter, 2))
    with pytest.raises(AssertionError, match="Input height"):
        errors(quantized, search, torch.zeros(2, 3, 7, 7))
    assert not any(module._forward_hooks for module in quantized.adapter.network.modules())


def test_inputs_of_zeros_give_no_error_and_no_division_by_zero(tmp_path):
    search = search_over(vit_adapter(1), tmp_path)
    with torch.no_grad():
        for parameter in search.adapter.network.parameters():
            parameter.zero_()
    quantized, _ = quantized_at(search)
    assert set(map(tuple, errors(quantized, search, images(search.adapter, 2)).values())) == {(0.0,)}


def test_the_metric_is_the_error_of_single_layers(search):
    found = Reconstruction().scores(search, BUDGET)
    full_precision = BitPlan.full_precision(search.adapter.sites)
    for site in (search.layers[0], search.layers[3], search.layers[-2]):
        plan = full_precision.with_bits({site.name: (3, 3)})
        adapter = QuantizedModel(search.adapter, search.bank).apply(plan).adapter
        (error,) = reconstruction_errors(adapter, search.adapter, [site], search.task.calibration_images)[site.name]
        assert found[site.name][3] == pytest.approx(error, rel=1e-6)
    assert all(list(row.values()) == sorted(row.values(), reverse=True) for row in found.values())
