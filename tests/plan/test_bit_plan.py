"""The bit plan: written, read, compared, refused where it does not fit."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest

from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from tests.small_models import distilled_adapter, swin_adapter, vit_adapter

BUDGET = Budget(Fraction(7, 2), Fraction(7, 2), (2, 3, 4, 5), "fixed", (3, 3), "target")


@pytest.fixture(scope="module")
def sites():
    return swin_adapter().sites


@pytest.fixture
def plan(sites):
    layers = [site for site in sites if site.allocated]
    bits = {site.name: 2 + index % 4 for index, site in enumerate(layers)}
    plan = BUDGET.plan(
        sites,
        bits,
        {
            "allocator": "by hand",
            "swaps": [
                {"up": "a", "down": down, "accepted": True, "accuracy": 0.5, "loss": 1.0} for down in ("b", None)
            ],
        },
    )
    return plan.with_scores({site.name: 0.1 * index for index, site in enumerate(layers)})


def refused(action, *arguments):
    with pytest.raises(LampQError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_plan_is_read_as_it_was_written(tmp_path, plan):
    plan.write(tmp_path / "plan.json")
    again = BitPlan.read(tmp_path / "plan.json")
    assert again == plan and again.key() == plan.key()
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    content = json.loads((tmp_path / "plan.json").read_text())
    assert {"name", "type", "block", "parameters", "weight_bits", "activation_bits", "allocated", "score"} == set(
        content["sites"][0]
    )
    assert content["budget"]["weight_bits"] == 3.5 and content["origin"]["allocator"] == "by hand"


def test_budgets_that_can_be_asked_for_can_be_written_and_read(tmp_path, plan):
    large = replace(plan, budget={**plan.budget, "unit": "bops", "limit": 13_800_000_000})
    large.write(tmp_path / "plan.json")
    assert BitPlan.read(tmp_path / "plan.json").budget["limit"] == 13_800_000_000
    with pytest.raises(LampQError, match=r"budget.limit=0"):
        replace(plan, budget={**plan.budget, "limit": 0}).write(tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists(), "what could not be read again is not written"


def test_full_precision_is_null_everywhere(tmp_path, sites):
    plan = BitPlan.full_precision(sites)
    plan.write(tmp_path / "plan.json")
    assert all(site.bits == (None, None) for site in BitPlan.read(tmp_path / "plan.json").sites)
    assert "null" in (tmp_path / "plan.json").read_text()


def test_every_site_is_listed_and_the_4n_layers_are_marked(sites, plan):
    assert [site.name for site in plan.sites] == [site.name for site in sites]
    assert [site.name for site in plan.sites if site.allocated] == list(plan.layer_bits())
    assert {site.type for site in plan.sites if site.allocated} == {"qkv", "proj", "fc1", "fc2"}
    assert len(plan.layer_bits()) == 16


def test_with_bits_changes_the_named_sites_only(plan):
    name = next(iter(plan.layer_bits()))
    changed = plan.with_bits({name: (8, None)})
    assert changed[name].bits == (8, None)
    assert [s for s in changed.sites if s.name != name] == [s for s in plan.sites if s.name != name]
    assert plan[name].bits != (8, None), "the original has changed"
    with pytest.raises(KeyError, match="nowhere"):
        plan.with_bits({"nowhere": (2, 2)})
    with pytest.raises(KeyError):
        plan["nowhere"]


def test_the_key_knows_bits_and_nothing_else(plan):
    name = next(iter(plan.layer_bits()))
    assert replace(plan, origin={}, budget={}).with_scores({name: 9.0}).key() == plan.key()
    weight, activation = plan[name].bits
    others = [plan.with_bits({name: bits}) for bits in ((weight + 1, activation), (weight, activation + 1), (None, 2))]
    assert len({plan.key(), *(other.key() for other in others)}) == 4


def test_scores_are_filled_in_where_given(plan):
    first, second, *_ = plan.layer_bits()
    rescored = plan.with_scores({first: 7.0})
    assert rescored[first].score == 7.0 and rescored[second].score == plan[second].score


def test_wrong_files_are_refused(tmp_path):
    for content in [
        "",
        "{",
        "[]",
        "{}",
        '{"sites": 3, "budget": {}, "origin": {}}',
        '{"sites": [{"name": "a"}], "budget": {}, "origin": {}}',
        '{"sites": [], "budget": 3, "origin": {}}',
        "\udcff\udcfe",
    ]:
        path = tmp_path / "plan.json"
        path.write_bytes(content.encode(errors="surrogateescape"))
        assert "is not a bit plan" in refused(BitPlan.read, path), content


def test_bits_of_a_file_are_checked(tmp_path, plan):
    for key in ["weight_bits", "activation_bits"]:
        for value in [3.5, "3", True, 0, 17, -1, [3]]:
            content = plan.to_json()
            content["sites"][1][key] = value
            (tmp_path / "plan.json").write_text(json.dumps(content))
            assert f"{plan.sites[1].name}.{key}" in refused(BitPlan.read, tmp_path / "plan.json"), (key, value)


def test_absent_files_are_refused(tmp_path):
    assert "give the path of a plan.json" in refused(BitPlan.read, tmp_path / "plan.json")
    assert "give the path of a plan.json" in refused(BitPlan.read, tmp_path)


def test_a_plan_fits_its_own_model_only(sites, plan):
    plan.check_fits(sites)
    plan.check_fits(swin_adapter(seed=8).sites)  # the same architecture with other weights
    assert "patch_embed.proj" in refused(plan.check_fits, vit_adapter().sites)
    shorter, longer = BitPlan.full_precision(vit_adapter(2).sites), vit_adapter(3).sites
    assert "it has head (head, 240 weights) where the model has blocks.2.attn.qkv" in refused(
        shorter.check_fits, longer
    )
    assert "nothing" in refused(BitPlan.full_precision(vit_adapter(2).sites).check_fits, distilled_adapter(2).sites)
    first, *rest = plan.sites
    assert "1 weights" in refused(replace(plan, sites=(replace(first, parameters=1), *rest)).check_fits, sites)
    assert refused(replace(plan, sites=plan.sites[::-1]).check_fits, sites)
