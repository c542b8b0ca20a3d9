"""Weight errors: the distance of what the layer's own input is multiplied with from the original weights."""

from fractions import Fraction

import pytest
import torch
from torch import nn

from lampq.base_quantizers.adalog import AdaLog
from lampq.errors import LampQError
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from lampq.sensitivity.weight_error import WeightError, effective_weight
from tests.small_models import images, search_over, swin_adapter, vit_adapter


def budget(*candidates):
    return Budget(Fraction(3), Fraction(3), candidates, "fixed", (3, 3), "target")


@pytest.mark.parametrize("build", [vit_adapter, swin_adapter], ids=["vit", "swin"])
def test_errors_by_hand(build, tmp_path):
    search = search_over(build(), tmp_path)
    errors = WeightError().scores(search, budget(2, 4))
    assert list(errors) == [s.name for s in search.layers]
    for site in search.layers:
        module = search.bank.module(site, Bits(2, 2))
        distance = torch.dist(module.weight.double(), search.adapter.module(site.name).weight.double())
        assert errors[site.name][2] == pytest.approx(distance.item() ** 2, rel=1e-9)
        # Sixteen times the squared step: three steps of the range at two bits, fifteen at four.
        assert 10 < errors[site.name][2] / errors[site.name][4] < 60


def test_a_reparameterized_layer_is_compared_in_the_original_units(tmp_path):
    quick = AdaLog(candidates=32, rounds=1, steps=1)
    search = search_over(vit_adapter(blocks=1), tmp_path, base_quantizer=quick)
    site = next(s for s in search.layers if s.type == "fc1")
    module, layer = search.bank.module(site, Bits(8, 8)), search.adapter.module(site.name)
    assert module.channel_scale is not None and (module.channel_scale - 1).abs().max() > 0.1
    weight = effective_weight(module, site.name)
    # The output's dependence on the layer's input, its own quantizer aside.
    module.quantize_input, quantizer = None, module.quantize_input
    x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(x) - module(torch.zeros_like(x)), x @ weight.T, rtol=1e-4, atol=1e-5)
    module.quantize_input = quantizer
    size = layer.weight.double().square().sum().item()
    assert WeightError().scores(search, budget(8))[site.name][8] < 1e-3 * size
    assert (module.weight - layer.weight).square().sum() > 0.01 * size, "the module's own weights are other units"


def test_bits_of_inputs_change_the_weights_only_where_they_are_calibrated_together(tmp_path):
    search = search_over(vit_adapter(), tmp_path)
    wide = Budget(Fraction(3), Fraction(8), (2, 4), "fixed", (3, 8), "target")
    assert WeightError().scores(search, wide) == WeightError().scores(search, budget(2, 4))


def test_a_module_without_weights_is_one_line(tmp_path):
    with pytest.raises(LampQError, match=r"^base_quantizer: Identity at blocks\.0 does not tell its quantized weights"):
        effective_weight(nn.Identity(), "blocks.0")


def test_the_full_precision_model_is_not_touched(tmp_path):
    search = search_over(vit_adapter(), tmp_path)
    pictures, before = images(search.adapter, 2), search.adapter.weights_hash()
    logits = search.adapter.run(pictures)
    WeightError().scores(search, budget(2, 3))
    assert search.adapter.weights_hash() == before and torch.equal(search.adapter.run(pictures), logits)
