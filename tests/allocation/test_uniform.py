"""Equal bits everywhere."""

from dataclasses import replace
from fractions import Fraction

import pytest

from lampq.allocation.uniform import Uniform
from lampq.errors import LampQError
from lampq.plan.budget import Budget, realised_costs
from tests.small_models import search_over, swin_adapter, vit_adapter


def budget(weight, activation=None):
    weight, activation = Fraction(str(weight)), Fraction(str(activation or weight))
    return Budget(weight, activation, (2, 3), "fixed", (int(weight), int(activation)), "target")


@pytest.mark.parametrize("build", [vit_adapter, swin_adapter])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_every_layer_has_the_target(tmp_path, build, bits):
    search = search_over(build(), tmp_path)
    plan = Uniform().allocate(search, budget(bits))
    assert {site.bits for site in plan.sites if site.allocated} == {(bits, bits)}
    assert realised_costs(search.adapter.sites, plan)["average_weight_bits"] == bits
    assert plan.origin == {"allocator": "uniform"} and plan.budget["weight_bits"] == bits
    assert search.task.dataset.reads == {"calibration": 0, "sample": 0, "validation": 0}


def test_activations_have_their_own_target(tmp_path):
    plan = Uniform().allocate(search_over(vit_adapter(), tmp_path), budget(4, 8))
    assert {site.bits for site in plan.sites if site.allocated} == {(4, 8)}


def test_fractions_are_refused(tmp_path):
    with pytest.raises(LampQError, match=r"weight_bits=3\.5: uniform bits must be whole"):
        Uniform().allocate(search_over(vit_adapter(), tmp_path), budget("3.5"))


def test_nothing_binds_it_and_it_says_so(tmp_path, caplog):
    search, plain = (
        search_over(vit_adapter(), tmp_path),
        Uniform().allocate(search_over(vit_adapter(), tmp_path), budget(3)),
    )
    caplog.set_level("INFO", "lampq")
    for changes, said in (
        ({"pins": (("block 0", 8),)}, 1),
        ({"ties": "modules"}, 1),
        ({"unit": "bops", "limit": 1000}, 1),
        ({"unit": "bops", "allocate": "all"}, 1),
        ({"unit": "bops"}, 0),
        ({"activation_rule": "independent"}, 0),
    ):
        caplog.clear()
        assert Uniform().allocate(search, replace(budget(3), **changes)) == plain
        assert [r.message for r in caplog.records] == said * [
            "uniform: equal bits everywhere, not bound by pins, ties, budget_limit and allocate"
        ]
    with pytest.raises(LampQError, match=r"activation_bits=4\.5: uniform bits must be whole"):
        Uniform().allocate(search, replace(budget(3, "4.5"), activation_rule="independent"))


def test_the_bit_set_is_not_used():
    assert not Uniform().searches and Uniform().settings() == {}
