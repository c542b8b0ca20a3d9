"""Bits from a plan file."""

from fractions import Fraction

import pytest

from lampq.allocation.from_plan import FromPlan
from lampq.allocation.uniform import Uniform
from lampq.errors import LampQError
from lampq.plan.budget import Budget
from tests.small_models import distilled_adapter, search_over, vit_adapter

BUDGET = Budget(Fraction(3), Fraction(3), (2, 3, 4), "fixed", (3, 3), "target")


@pytest.fixture
def search(tmp_path):
    return search_over(vit_adapter(), tmp_path / "store")


@pytest.fixture
def plan(search):
    names = [site.name for site in search.layers]
    uniform = Uniform().allocate(search, BUDGET)
    return uniform.with_bits({names[0]: (5, 4), names[1]: (None, 2), "blocks.0.attn.qk": (None, 7)})


def test_the_file_decides_whatever_the_budget_says(tmp_path, search, plan):
    plan.write(tmp_path / "plan.json")
    other = Budget(Fraction(8), Fraction(8), (8,), "fixed", (8, 8), "target")
    assert FromPlan(str(tmp_path / "plan.json")).allocate(search, other) == plan
    assert search.task.dataset.reads["sample"] == 0


def test_the_run_is_known_by_the_bits_not_by_the_file(tmp_path, plan):
    plan.write(tmp_path / "plan.json")
    plan.with_scores({"blocks.0.attn.qkv": 3.0}).write(tmp_path / "other.json")
    one, other = FromPlan(str(tmp_path / "plan.json")), FromPlan(str(tmp_path / "other.json"))
    assert one.settings() == other.settings() == {"plan": plan.key()}
    plan.with_bits({"head": (8, 8)}).write(tmp_path / "other.json")
    assert FromPlan(str(tmp_path / "other.json")).settings() != one.settings()
    assert not one.searches


def test_wrong_files_and_models_are_refused(tmp_path, search, plan):
    with pytest.raises(LampQError, match="give the path of a plan"):
        FromPlan(str(tmp_path / "nothing.json"))
    plan.write(tmp_path / "plan.json")
    other = search_over(distilled_adapter(3), tmp_path / "other")
    with pytest.raises(LampQError, match="does not fit the model"):
        FromPlan(str(tmp_path / "plan.json")).allocate(other, BUDGET)
