"""A trust region: how many groups may change after a better and after a worse plan, and what the worse ones teach."""

import numpy as np
import pytest

from lampq.allocation.trust_region import TrustRegion
from tests.small_models import BUDGET, vit_adapter


@pytest.fixture
def region():
    return TrustRegion(8, (3, 2))


@pytest.fixture(scope="module")
def plans():
    sites = vit_adapter(1).sites
    layers = [site.name for site in sites if site.allocated]
    return [BUDGET.plan(sites, dict.fromkeys(layers, bits)) for bits in (2, 3)]


def test_a_worse_plan_halves_what_may_change_and_a_better_one_doubles_it_again(region, plans):
    region.shrink(plans[0], [(row, column) for row in range(3) for column in range(2)], 0.5)
    assert region.trust == 3
    region.shrink(plans[1], [(0, 0)], 0.5)
    assert region.trust == 2, "one gains a bit, one gives it"
    region.grow()
    region.grow()
    assert region.trust == 8
    region.grow()
    assert region.trust == 8


def test_what_a_plan_was_worse_than_expected_is_shared_by_its_changes_until_the_plan_is_another(region, plans):
    region.shrink(plans[0], [(0, 1), (2, 0)], 0.5)
    region.shrink(plans[1], [(0, 1)], 0.1)
    assert np.allclose(region.surprise, [[0, 0.35], [0, 0], [0.25, 0]])
    region.grow()
    assert not region.surprise.any()


def test_refused_plans_are_known_where_they_were_refused(region, plans):
    region.shrink(plans[0], [(0, 1)], 0.5)
    assert region.has_refused(plans[0]) and not region.has_refused(plans[1])
    region.grow()
    assert not region.has_refused(plans[0])
    region.shrink(plans[0], [(0, 1)], 0.5)
    region.reset()
    assert region.trust == 8 and not region.surprise.any() and not region.has_refused(plans[0])
