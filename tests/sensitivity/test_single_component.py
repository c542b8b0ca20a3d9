"""What single components cost: which there are, what is quantized for each, and what is measured."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from lampq.bank.quantized_model import QuantizedModel
from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.sensitivity.single_component import SingleComponents, replaced
from tests.small_models import search_over, swin_adapter, vit_adapter

BUDGET = Budget(Fraction(3), Fraction(3), (2, 3, 4), "fixed", (3, 3), "target")
ALL = ["layers", "modules", "blocks"]


@pytest.fixture(params=[vit_adapter, swin_adapter], ids=["vit", "swin"])
def search(request, tmp_path):
    return search_over(request.param(), tmp_path)


@pytest.fixture
def vit(tmp_path):
    return search_over(vit_adapter(2), tmp_path)


class Plans:
    """Hands every plan on to an evaluator and keeps it."""

    def __init__(self, evaluator):
        self.evaluator, self.seen = evaluator, []

    def set_base(self, plan):
        self.evaluator.set_base(plan)

    def score(self, plan):
        self.seen.append(plan)
        return self.evaluator.score(plan)


def quantized_sites(plan, context=None):
    """Bits of the sites that differ from full precision (or another plan), by name."""
    before = context.sites if context else [None] * len(plan.sites)
    return {
        s.name: s.bits for s, b in zip(plan.sites, before, strict=True) if s.bits != (b.bits if b else (None, None))
    }


def measured_plans(search, budget=BUDGET, **settings):
    """Rows with the plan of each."""
    plans = Plans(search.evaluator)
    rows = SingleComponents(**settings).measure(replace(search, evaluator=plans), budget)
    assert len(rows) == len(plans.seen)
    return list(zip(rows, plans.seen, strict=True))


def test_there_are_4_layers_2_modules_and_1_block_for_each_block(search):
    components = SingleComponents(ALL, 2).components(search.adapter.sites)
    blocks = 4 if "swin" in search.adapter.name else 3
    found = [(c.unit, c.block, c.type) for c in components]
    assert found == [
        *(("layers", block, kind) for block in range(blocks) for kind in ("qkv", "proj", "fc1", "fc2")),
        *(("modules", block, kind) for block in range(blocks) for kind in ("MSA", "MLP")),
        *(("blocks", block, "block") for block in range(blocks)),
    ]


def test_the_parts_of_a_component_are_those_of_its_block(search):
    sites = {site.name: site for site in search.adapter.sites}
    for component in SingleComponents(ALL, 2).components(search.adapter.sites):
        parts = [sites[name] for name in component.sites]
        assert {site.block for site in parts} == {component.block}
        assert [site.type for site in parts] == {
            "MSA": ["qkv", "qk", "pv", "proj"],
            "MLP": ["fc1", "fc2"],
            "block": ["qkv", "qk", "pv", "proj", "fc1", "fc2"],
        }.get(component.type, [component.type])


def test_what_is_outside_the_blocks_belongs_to_no_component(search):
    named = {name for c in SingleComponents(ALL, 2).components(search.adapter.sites) for name in c.sites}
    left = {site.type for site in search.adapter.sites if site.name not in named}
    assert left == {"patch_embed", "head"} | ({"reduction"} if "swin" in search.adapter.name else set())


def test_a_component_changes_its_own_sites_and_nothing_else(search):
    components = SingleComponents(ALL, 2).components(search.adapter.sites)
    (first, context), *others = measured_plans(search, units=ALL, bits=2)
    assert first["unit"] == "none" and quantized_sites(context) == {}
    matmuls = {site.name for site in search.adapter.sites if site.is_matmul}
    for component, (row, plan) in zip(components, others, strict=True):
        assert (row["unit"], row["type"], row["block"]) == (component.unit, component.type, component.block)
        assert row["bits"] == 2
        expected = {name: (None if name in matmuls else 2, 2) for name in component.sites}
        assert quantized_sites(plan) == expected
    operands = [bits for row, plan in others if row["type"] == "MSA" for bits in quantized_sites(plan).values()]
    assert operands.count((None, 2)) == 2 * len({c.block for c in components}), "both matmuls of every block"


def test_activations_follow_the_budgets_rule(vit):
    budget = Budget(Fraction(4), Fraction(8), (2, 3, 4), "fixed", (4, 8), "target")
    _, *others = measured_plans(vit, budget, units=["layers"], bits=2, types=["qkv"])
    assert [list(quantized_sites(plan).values()) for _, plan in others] == [[(2, 8)]] * 2


def test_figures_are_what_plain_evaluation_gives(search):
    """Each plan run as a whole, image by image counted here."""
    quantized = QuantizedModel(search.adapter, search.bank)
    pictures, labels = search.task.sample_images, search.task.sample_labels

    def outcome(plan):
        with torch.inference_mode():
            logits = quantized.apply(plan).adapter.run(pictures).double()
        return (logits.argmax(1) == labels).double(), torch.nn.functional.cross_entropy(
            logits, labels, reduction="none"
        )

    rows = measured_plans(search, units=["layers", "blocks"], bits=2, types=["fc1"])
    right, loss = outcome(BitPlan.full_precision(search.adapter.sites))
    assert rows[0][0] == {"unit": "none", "top1": pytest.approx(100 * right.mean().item()), "loss": rows[0][0]["loss"]}
    assert rows[0][0]["loss"] == pytest.approx(loss.mean().item(), rel=1e-4)
    drops = set()
    for row, plan in rows[1:]:
        own_right, own_loss = outcome(plan)
        assert row["top1"] == pytest.approx(100 * own_right.mean().item())
        assert row["loss"] == pytest.approx(own_loss.mean().item(), rel=1e-3)
        for name, difference in (("top1_drop", 100 * (right - own_right)), ("loss_increase", own_loss - loss)):
            assert row[name] == pytest.approx(difference.mean().item(), rel=1e-3, abs=1e-4)
            error = (difference.var() / len(labels)).sqrt().item()
            assert row[f"{name}_standard_error"] == pytest.approx(error, rel=1e-3)
        drops.add(row["top1_drop"])
    assert len(drops) > 2 and max(drops) > 0


def test_the_first_block_has_its_bits_throughout(vit):
    (_, context), *others = measured_plans(vit, units=["layers"], bits=1, first_block_bits=2)
    first = {site.name for site in vit.adapter.sites if site.block == 0}
    bits = quantized_sites(context)
    assert set(bits) == first and {activation for _, activation in bits.values()} == {2}
    for row, plan in others:
        (name,) = quantized_sites(plan, context)
        assert plan[name].bits == (1, 1) and plan[name].block == row["block"]


def test_a_drop_is_against_the_model_with_its_first_block_quantized(vit):
    rows = [row for row, _ in measured_plans(vit, units=["layers"], bits=1, first_block_bits=2)]
    for row in rows[1:]:
        assert row["top1_drop"] == pytest.approx(rows[0]["top1"] - row["top1"])
        assert row["loss_increase"] == pytest.approx(row["loss"] - rows[0]["loss"])


SETTINGS = {"units": ["layers", "blocks"], "bits": 2, "types": None, "first_block_bits": None}


@pytest.mark.parametrize(
    "change", [{"units": ["layers"]}, {"bits": 1}, {"types": ["qkv"]}, {"first_block_bits": 2}], ids=str
)
def test_every_option_changes_the_result(vit, change):
    plain, other = (SingleComponents(**{**SETTINGS, **changes}) for changes in ({}, change))
    figures = [[row["loss"] for row in measurement.measure(vit, BUDGET)] for measurement in (plain, other)]
    assert figures[0] != figures[1] and plain.settings() != other.settings()


def test_equal_settings_give_equal_results_in_another_store(tmp_path):
    searches = [search_over(vit_adapter(2), tmp_path / name) for name in ("one", "other")]
    one, other = (SingleComponents(**SETTINGS).measure(search, BUDGET) for search in searches)
    assert one == other and len(one) == 1 + 8 + 2


def test_the_order_of_units_and_types_on_the_command_line_does_not_matter():
    one = SingleComponents(["blocks", "layers"], 2, ["fc1", "qkv"])
    other = SingleComponents(["layers", "blocks", "layers"], 2, ["qkv", "fc1", "qkv"])
    assert one.settings() == other.settings()


def test_the_same_measurement_with_another_setting():
    plain = SingleComponents(**SETTINGS)
    assert replaced(plain, bits=3).settings() == {**plain.settings(), "bits": 3}
    assert plain.bits == 2


def test_d_is_looked_at_and_validation_images_never(vit):
    SingleComponents(["blocks"], 2).measure(vit, BUDGET)
    assert vit.task.dataset.reads["sample"] > 0 and vit.task.dataset.reads["validation"] == 0


def test_a_bad_value_is_one_line_that_names_its_key():
    for settings, message in [
        ({"units": []}, "sensitivity.units=[]: must be a list of some of layers, modules, blocks"),
        ({"units": "layers"}, "sensitivity.units=layers: must be a list of some of layers, modules, blocks"),
        ({"units": ["layer"]}, "sensitivity.units=[layer]: must be a list of some of layers, modules, blocks"),
        ({"units": None}, "sensitivity.units=null: must be a list of some of layers, modules, blocks"),
        ({"bits": 0}, "sensitivity.bits=0: must be an integer between 1 and 16"),
        ({"bits": 2.0}, "sensitivity.bits=2.0: must be an integer between 1 and 16"),
        ({"bits": True}, "sensitivity.bits=true: must be an integer between 1 and 16"),
        ({"types": ["qk"]}, "sensitivity.types=[qk]: must be a list of some of qkv, proj, fc1, fc2, or null"),
        ({"types": []}, "sensitivity.types=[]: must be a list of some of qkv, proj, fc1, fc2, or null"),
        ({"first_block_bits": 17}, "sensitivity.first_block_bits=17: must be an integer between 1 and 16, or null"),
        ({"first_block_bits": "2"}, "sensitivity.first_block_bits='2': must be an integer between 1 and 16, or null"),
    ]:
        with pytest.raises(LampQError) as error:
            SingleComponents(**{**SETTINGS, **settings})
            pytest.fail(f"accepted: {settings}, {message}")
        assert str(error.value) == message, (settings, message)


@pytest.mark.parametrize("key", ["bits", "first_block_bits"])
def test_bits_outside_of_the_base_quantizers_range_are_refused_before_any_work(vit, key, monkeypatch):
    monkeypatch.setattr(vit.bank.base_quantizer, "minimum_bits", 2)
    with pytest.raises(LampQError, match=rf"^sensitivity\.{key}: rtn is not defined at 1 bits, only at 2 to") as error:
        SingleComponents(**{**SETTINGS, key: 1}).measure(vit, BUDGET)
    assert "\n" not in str(error.value)
    assert vit.task.dataset.reads == {"calibration": 0, "sample": 0, "validation": 0}


def test_numbers_are_plain_and_finite(vit):
    for row in SingleComponents(ALL, 2).measure(vit, BUDGET):
        assert all(type(value) in (str, int, float) for value in row.values())
        assert all(math.isfinite(value) for value in row.values() if not isinstance(value, str))
