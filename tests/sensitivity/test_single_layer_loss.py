"""Losses of single layers: those of plans in which one layer differs, and what the others' precision changes."""

import pytest
import torch

from lampq.bank.quantized_model import QuantizedModel
from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.sensitivity.single_layer_loss import SingleLayerLoss
from tests.allocation.budgets import budget
from tests.small_models import search_over, swin_adapter, vit_adapter


@pytest.mark.parametrize("build", [vit_adapter, swin_adapter], ids=["vit", "swin"])
@pytest.mark.parametrize("others", ["full_precision", 4])
def test_they_are_differences_of_losses_on_d(build, others, tmp_path):
    search = search_over(build(), tmp_path)
    losses = SingleLayerLoss(others).scores(search, budget())
    assert list(losses) == [s.name for s in search.layers]
    sites = search.adapter.sites
    context = BitPlan.full_precision(sites)
    if others != "full_precision":
        context = budget().plan(sites, dict.fromkeys(losses, others))

    def loss(plan):
        model = QuantizedModel(search.adapter, search.bank).apply(plan).adapter
        logits = model.run(search.task.sample_images)
        return torch.nn.functional.cross_entropy(logits.double(), search.task.sample_labels).item()

    for site in (search.layers[0], search.layers[-3]):
        base = loss(context.with_bits({site.name: (None, None)}))
        for bits in (2, 5):
            expected = loss(context.with_bits({site.name: (bits, bits)})) - base
            assert losses[site.name][bits] == pytest.approx(expected, abs=1e-5)


def test_losses_of_any_site_at_any_pair_of_bits(tmp_path):
    search = search_over(vit_adapter(2), tmp_path)
    full, name = BitPlan.full_precision(search.adapter.sites), "blocks.1.attn.pv"
    options = {name: [Bits(None, 2)], "head": [Bits(2, 4), Bits(4, 2)], "patch_embed.proj": [Bits(2, None)]}
    found = SingleLayerLoss().site_scores(search, budget(), options)
    base = search.evaluator.score(full).mean_loss
    for site, row in options.items():
        for bits in row:
            assert found[site][bits] == search.evaluator.score(full.with_bits({site: bits})).mean_loss - base


def test_an_interrupted_measurement_goes_on_where_it_was(tmp_path):
    search = search_over(vit_adapter(), tmp_path)
    whole = SingleLayerLoss().scores(search, budget(candidates=(2, 3)))
    again = search_over(vit_adapter(), tmp_path)
    assert SingleLayerLoss().scores(again, budget(candidates=(2, 3))) == whole and again.evaluator.evaluations == 0
    SingleLayerLoss().scores(again, budget(candidates=(2, 3, 4)))
    assert again.evaluator.evaluations == len(again.layers)


def test_a_loss_that_is_no_number_is_one_line(tmp_path, monkeypatch):
    search = search_over(vit_adapter(), tmp_path)
    score = search.evaluator.score

    def spoilt(plan, keep=False):
        found = score(plan, keep)
        return type(found)(found.loss * float("nan"), found.correct)

    monkeypatch.setattr(search.evaluator, "score", spoilt)
    with pytest.raises(LampQError, match=r"the loss on D with .* is nan; leave the smallest bits out"):
        SingleLayerLoss(4).scores(search, budget())
