"""What single changes are foretold to do: where they are taken from, and where nothing is known."""

import numpy as np
import pytest

from lampq.allocation.foretold_changes import ByGradient, ByMeasurement
from lampq.allocation.search_space import SearchSpace
from tests.allocation.budgets import budget
from tests.small_models import search_over, vit_adapter

IMAGES = 16


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    search = search_over(vit_adapter(1), tmp_path_factory.mktemp("store"))
    return search, SearchSpace.open(search, budget())


def at(opened, kind, bits, *more):
    search, space = opened
    foretold = kind(search, budget(), space, IMAGES, *more)
    plan = budget().plan_of(search.adapter.sites, space.pairs(bits))
    search.bank.calibrate(plan)
    return foretold, plan, foretold.at(plan, bits)


@pytest.mark.parametrize(("kind", "more"), [(ByGradient, ()), (ByMeasurement, (1,))])
def test_the_bits_of_now_change_nothing_and_others_do_image_by_image(kind, more, opened):
    _, space = opened
    _, _, changes = at(opened, kind, [3] * len(space.groups), *more)
    assert changes.shape == (len(space.groups), len(space.bits), IMAGES)
    assert not changes[:, space.bits.index(3)].any() and changes[:, space.bits.index(2)].any(1).all()


def test_measured_changes_are_one_step_away_and_serve_later_plans(opened):
    """From 4 bits on, going back to 3 costs what going to 4 has saved; no plan is scored for it."""
    search, space = opened
    bits = [3] * len(space.groups)
    foretold, plan, changes = at(opened, ByMeasurement, bits, 2)
    five, four, three = (space.bits.index(b) for b in (5, 4, 3))
    assert np.isnan(changes[:, five]).all() and not np.isnan(changes[:, four]).any()
    later = [4, *bits[1:]]
    moved = budget().plan_of(search.adapter.sites, space.pairs(later))
    scored = search.evaluator.scored
    again = foretold.at(moved, later)
    assert search.evaluator.scored == scored
    assert np.array_equal(again[0, three], -changes[0, four]) and np.array_equal(again[1:, four], changes[1:, four])
    assert not foretold.renewed(plan, bits) and foretold.renewed(moved, later), "at another plan"
    measured = foretold.at(moved, later)
    assert not np.isnan(measured[0, five]).any() and len(foretold.measured) == 2
    assert not foretold.renewed(plan, bits), "not more often than asked"
