"""A search's last plans, trained for a few steps each: the best of them on D is the one that is trained to the end."""

from dataclasses import replace

import pytest

from lampq.allocation.lampq import LampQ
from lampq.allocation.last_plans import _candidates
from lampq.allocation.uniform import Uniform
from lampq.base_quantizers.glf_q import GlfQ
from lampq.base_quantizers.qdrop import QDrop
from lampq.errors import LampQError
from lampq.tasks.score import paired_change
from tests.allocation.budgets import budget
from tests.reconstruction.blocks import QUICK
from tests.small_models import search_over, vit_adapter

STEPS = 4
LAMPQ = {"labels": "dataset", "accept": "loss", "max_evaluations": 5}


def method(**changes):
    return QDrop(**{**QUICK, "iterations": 12, "rank_last": 3, "rank_steps": STEPS, **changes})


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    search = search_over(vit_adapter(), tmp_path_factory.mktemp("store"), base_quantizer=method(), calibration_images=8)
    return search, LampQ(**LAMPQ).choose(search, budget())


def test_the_chosen_plan_equal_bits_and_the_best_others_are_trained_and_scored(ranked):
    search, plan = ranked
    told = plan.origin["ranked"]
    assert len(told) == 3 and [each["chosen"] for each in told].count(True) == 1
    (best,) = [each for each in told if each["chosen"]]
    assert plan.layer_bits() == best["bits"] and best["loss"] == min(each["loss"] for each in told)
    assert set(told[1]["bits"].values()) == {3}, "equal bits"
    assert told[0]["change"] == 0 and "swaps" not in told[0]
    short = search.realisation.by(method(iterations=STEPS))
    assert short.missing(search_plan(search, told[1]["bits"])) == 0, "trained for so many steps"
    assert search.realisation.missing(plan) > 0, "nothing was trained to the end for it"


@pytest.mark.parametrize("rule", ["fixed", "independent"])
def test_plans_that_the_budget_does_not_allow_are_not_trained(rule, tmp_path):
    search, asked = search_over(vit_adapter(), tmp_path), replace(budget(), ties="modules", activation_rule=rule)
    sites, layers = search.adapter.sites, search.layers
    msa = [s.name for s in layers if s.block == 0 and s.type in ("qkv", "proj")]
    chosen = asked.plan(sites, {s.name: 3 for s in layers})
    less, more = ((b, 3 if asked.independent else b) for b in (2, 4))
    fewer = chosen.with_bits(dict.fromkeys(msa, less))
    refused = {
        "one of two tied layers in full precision": chosen.with_bits({msa[1]: (None, None)}),
        "tied layers with different bits": chosen.with_bits({msa[1]: less}),
        "over the budget": chosen.with_bits(dict.fromkeys(msa, more)),
        "the head in full precision": chosen.with_bits({"head": (None, None)}),
    }
    for plan in (fewer, *refused.values()):
        search.evaluator.score(plan)
    found = [plan.key() for plan in _candidates(chosen, search, asked)]
    assert found[0] == chosen.key() and fewer.key() in found
    assert [name for name, plan in refused.items() if plan.key() in found] == []


def search_plan(search, bits):
    return budget().plan(search.adapter.sites, bits)


def test_the_losses_are_those_of_the_shortly_trained_networks(ranked):
    search, plan = ranked
    told = plan.origin["ranked"]
    exact = search_over(
        vit_adapter(), search.store.root, base_quantizer=method(iterations=STEPS, search="exact"), calibration_images=8
    )
    scores = [exact.evaluator.score(search_plan(search, each["bits"])) for each in told]
    assert [score.mean_loss for score in scores] == pytest.approx([each["loss"] for each in told], rel=1e-9)
    change, error = paired_change(scores[1], scores[0])
    assert (told[1]["change"], told[1]["standard_error"]) == pytest.approx((change, error), rel=1e-6)


def test_without_it_and_without_a_search_nothing_is_trained_in_between(tmp_path):
    search = search_over(vit_adapter(), tmp_path, base_quantizer=method(rank_last=0), calibration_images=8)
    assert "ranked" not in LampQ(**LAMPQ).choose(search, budget()).origin
    search = search_over(vit_adapter(), tmp_path, base_quantizer=method(), calibration_images=8)
    assert "ranked" not in Uniform().choose(search, budget()).origin


def test_a_shortened_method_has_fewer_steps_and_never_more():
    glf = GlfQ(iterations=100, mlp_iterations=200).shortened(30)
    assert (glf.iterations, glf.mlp_iterations) == (30, 30)
    assert method(iterations=3).shortened(30).iterations == 3


def test_a_mistake_is_one_line():
    with pytest.raises(LampQError, match=r"base_quantizer\.rank_last=-1: "):
        method(rank_last=-1)
    with pytest.raises(LampQError, match=r"base_quantizer\.rank_steps=0: "):
        method(rank_steps=0)
