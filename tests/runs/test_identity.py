"""What a run's fingerprint covers of its budget, and that published runs keep theirs."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from lampq.allocation.greedy import Greedy
from lampq.allocation.least_score import LeastScore
from lampq.allocation.uniform import Uniform
from lampq.base_quantizers.qdrop import QDrop
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.pipeline import run
from lampq.plan.budget import Budget
from lampq.runs.identity import identity
from lampq.runs.preparation import Prepared
from lampq.sensitivity.single_component import SingleComponents
from lampq.tasks.classification import ClassificationTask
from lampq.transform.hadamard import Hadamard
from lampq.transform.none import NoTransform
from tests.allocation.budgets import budget
from tests.bank.test_realisation import OneAfterAnother
from tests.small_models import MadeUpImages, vit_adapter
from tests.small_settings import small_settings

FOLDER = Path(__file__).resolve().parents[2] / "results" / "published" / "runs"
PUBLISHED = [path for path in sorted(FOLDER.glob("*/identity.json")) if json.loads(path.read_text()).get("allocator")]


@pytest.fixture
def settings(tmp_path):
    return small_settings(
        tmp_path,
        blocks=2,
        base_quantizer=RoundToNearest(),
        allocator=LeastScore("output_fisher"),
        budget=budget(),
        baseline="uniform",
    )


@pytest.fixture(scope="module")
def prepared():
    adapter, device = vit_adapter(2), torch.device("cpu")
    return Prepared(adapter, ClassificationTask(adapter, MadeUpImages(), 0, device), None, device)


def test_a_search_over_realised_networks_says_that_estimates_come_from_them(settings, prepared):
    """Other numbers than when they came from independent states; a search over these is what it was."""

    def of(search, work):
        return identity(replace(settings, base_quantizer=OneAfterAnother(search)), prepared, work)

    assert of("surrogate", Greedy())["search"] == "surrogate" and "estimates_from" not in of("surrogate", Greedy())
    assert of("exact", Greedy())["estimates_from"] == of("block_bank", Greedy())["estimates_from"] == "scored"
    assert of("exact", Uniform()) == of("surrogate", Uniform())


def test_fewer_steps_of_the_blocks_that_plans_are_scored_with_are_part_of_a_search(settings, prepared):
    def of(steps, work):
        method = QDrop(iterations=8, images=6, search="block_bank", search_steps=steps)
        return identity(replace(settings, base_quantizer=method), prepared, work)

    assert of(2, Greedy())["search_steps"] == 2 and "search_steps" not in of(None, Greedy())
    assert of(8, Greedy()) == of(None, Greedy()), "as many as there are anyway"
    assert of(2, Uniform()) == of(None, Uniform()), "nothing is searched"


@pytest.mark.parametrize("searched", ["surrogate", "block_bank"])
def test_components_in_blocks_behind_equal_bits_depend_on_the_target(searched, settings, prepared):
    def of(target):
        asked = replace(settings, sensitivity=SingleComponents(["blocks"], 4), base_quantizer=OneAfterAnother(searched))
        return identity(replace(asked, budget=budget(target)), prepared, asked.sensitivity)

    assert (of(3) != of(4)) is (searched == "block_bank")


def test_a_transform_is_part_of_a_run_and_of_its_words_only_where_there_is_one(settings, prepared):
    rotated = replace(prepared, adapter=Hadamard(seed=2).apply(prepared.adapter))
    plain, other = (identity(settings, each, Uniform()) for each in (prepared, rotated))
    assert other["transform"] == Hadamard(seed=2).identity and "transform" not in plain
    assert other["weights"] != plain["weights"]
    assert {key: value for key, value in other.items() if key not in ("transform", "weights")} == {
        key: value for key, value in plain.items() if key != "weights"
    }


def test_runs_with_a_transform_are_runs_of_their_own(settings):
    transforms = (NoTransform(), Hadamard(), Hadamard(seed=1), Hadamard(residual=False), Hadamard(heads=False))
    records = [run(replace(settings, allocator=Uniform(), transform=of))[-1] for of in transforms]
    assert len({record.fingerprint for record in records}) == 5
    whole = {record.metrics["top1_full_precision"] for record in records}
    assert len(whole) == 1, "the full-precision function is the same"
    assert [record.metrics.get("transform") for record in records] == [None, *["hadamard"] * 4]


CHANGES = {
    "unit": {"unit": "bops"},
    "limit": {"unit": "packed_bytes", "limit": 10**6},
    "ties": {"ties": "modules"},
    "ties by words": {"ties": (("fc1", "fc2"),)},
    "pins": {"pins": (("fc2", 4),)},
    "inputs of their own": {"activation_rule": "independent"},
    "their bit set": {"activation_rule": "independent", "input_candidates": (2, 3)},
}


def test_a_search_is_another_run_with_each_of_them_and_equal_bits_the_same(settings, prepared):
    def of(work, **changes):
        return json.dumps(identity(replace(settings, budget=replace(budget(), **changes)), prepared, work))

    searches = {of(LeastScore("output_fisher"), **changes) for changes in ({}, *CHANGES.values())}
    assert len(searches) == 1 + len(CHANGES)
    assert {of(Uniform(), **changes) for changes in CHANGES.values()} == {of(Uniform())}


def test_budgets_of_published_runs_are_named_as_ever(settings, prepared):
    for path in PUBLISHED:
        published = json.loads(path.read_text())
        told = published["budget"]
        if published["allocator"][0] == "from_plan":  # a given plan has been paid for elsewhere
            assert told == {}, path
            continue
        asked = Budget(
            *(Fraction(str(told[key])) for key in ("weight_bits", "activation_bits")),
            tuple(told.get("candidates", (2, 3))),
            told.get("activation_rule", "fixed"),
            tuple(told["fixed_site_bits"]),
            told["operand_bits"],
            image_bits=told.get("image_bits"),
            unit=told.get("unit", "average_bits"),
            allocate=told.get("allocate", "layers"),
        )
        work = Greedy() if "candidates" in told else Uniform()
        assert identity(replace(settings, budget=asked), prepared, work)["budget"] == told, path


@pytest.mark.parametrize("unit", ["packed_bytes", "bops"])
def test_what_a_run_reports_keeps_its_limit(settings, unit):
    """The limit is what the run of equal bits beside it reports; a limit of one's own is kept as well."""
    figures = {}
    for limit in (None, 0.95):
        limit = limit and int(limit * figures["equal"])
        asked = replace(settings, budget=replace(budget(), unit=unit, limit=limit, pins=(("blocks.0.attn.qkv", 4),)))
        equal, chosen = run(asked)
        figures["equal"] = equal.metrics[unit]
        assert (equal.metrics.get("budget_unit"), chosen.metrics["budget_unit"]) == (None, unit)
        assert 0.8 * (limit or figures["equal"]) < chosen.metrics[unit] <= (limit or figures["equal"])
        assert chosen.plan["blocks.0.attn.qkv"].bits == (4, 4) and equal.plan["blocks.0.attn.qkv"].bits == (3, 3)
        assert equal.fingerprint != chosen.fingerprint
