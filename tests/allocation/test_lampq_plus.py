"""LampQ+: what its configuration adds to LampQ, part by part."""

import hydra
import pytest

from lampq.allocation.lampq import LampQ
from lampq.allocation.lampq_plus import LampQPlus
from lampq.allocation.least_score import LeastScore
from lampq.configuration.settings import construct, resolved
from lampq.launch.command_line import config_folder
from tests.allocation.budgets import budget


def lampq_plus(*changes):
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = hydra.compose("config", overrides=["allocator=lampq_plus", *(f"allocator.{c}" for c in changes)])
    return construct("allocator", resolved(cfg)["allocator"])


def test_it_starts_from_the_best_plan_by_output_errors_and_swaps_by_the_same(search):
    plan = lampq_plus().allocate(search, budget())
    start = LeastScore("output_fisher").allocate(search, budget())
    assert isinstance(lampq_plus(), LampQPlus) and plan.origin["allocator"] == "lampq_plus"
    assert plan.origin["scores"] == start.origin["scores"]
    assert plan.origin["initial_bits"] == start.layer_bits()
    assert not search.evaluator.score(start).improves_on(search.evaluator.score(plan))


@pytest.mark.parametrize(
    "change",
    [
        "metric=fisher",
        "type_scaling=true",
        "swap_estimates=reconstruction",
        "iterative_update=false",
        "try_next_pairs=0",
        "resolve=2",
        "labels=sampled",
    ],
)
def test_each_part_can_be_switched_and_changes_the_result(search, change):
    usual, other = lampq_plus(), lampq_plus(change)
    assert usual.settings() != other.settings()
    before, after = (allocator.allocate(search, budget()) for allocator in (usual, other))
    drop = ("settings",)
    assert {k: v for k, v in before.origin.items() if k not in drop} != {
        k: v for k, v in after.origin.items() if k not in drop
    }


def test_with_every_part_switched_back_it_is_lampq(search):
    back = lampq_plus(
        "metric=fisher",
        "type_scaling=true",
        "drop=auto",
        "labels=sampled",
        "swap_estimates=reconstruction",
        "try_next_pairs=4",
    )
    always_told = {"metric": "fisher", "swap_estimates": "reconstruction"}
    assert back.settings() == {**LampQ().settings(), **always_told}
    assert back.allocate(search, budget()).layer_bits() == LampQ().allocate(search, budget()).layer_bits()
