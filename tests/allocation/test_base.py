"""What every search notes beside its plan."""

import pytest

from lampq.allocation.random_plan import RandomPlan
from lampq.allocation.uniform import Uniform
from lampq.base_quantizers.rtn import RoundToNearest
from tests.allocation.budgets import budget
from tests.bank.test_realisation import OneAfterAnother
from tests.small_models import search_over, vit_adapter


@pytest.mark.parametrize(
    ("method", "allocator", "shared"),
    [(OneAfterAnother, RandomPlan, 6), (RoundToNearest, RandomPlan, 0), (OneAfterAnother, Uniform, 0)],
    ids=["trained", "calibrated", "no search"],
)
def test_a_plan_that_is_scored_on_images_that_blocks_were_trained_on_says_so(
    tmp_path, caplog, method, allocator, shared
):
    """Six training images, which are the first of D here."""
    plan = allocator().choose(search_over(vit_adapter(2), tmp_path, base_quantizer=method()), budget())
    assert plan.origin.get("sample_images_trained_on", 0) == shared
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    told = "6 of the 64 images of D, on which plans are scored, are images that one_after_another works on"
    assert [warning.startswith(told) and "\n" not in warning for warning in warnings] == [True] * bool(shared)
