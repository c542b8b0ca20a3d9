"""What every allocator of conf/allocator keeps to, new ones included."""

import copy
import functools
import json
import math
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import hydra
import pytest
import torch
import yaml
from hydra.utils import get_class
from omegaconf import OmegaConf

from lampq.allocation.base import Allocator
from lampq.allocation.least_score import LeastScore
from lampq.allocation.uniform import Uniform
from lampq.configuration.settings import construct, resolved
from lampq.errors import LampQError
from lampq.launch.command_line import config_folder
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget, packed_bytes, realised_costs
from lampq.plan.sites import MODULES
from lampq.sensitivity.metric import metrics
from tests.small_models import images, search_over, swin_adapter, vit_adapter

NAMES = sorted(path.stem for path in (config_folder() / "allocator").glob("*.yaml"))
VALUES = {name: yaml.safe_load((config_folder() / "allocator" / f"{name}.yaml").read_text()) for name in NAMES}
CLASSES = {name: get_class(values["_target_"]) for name, values in VALUES.items()}
SEARCHING = [name for name, part in CLASSES.items() if part.searches]
FEW = ("max_evaluations=4",)
"""What is tested here does not depend on how many plans a search scores."""
CHEAP = {"clado": ("allocator.pairs=diagonal",)}
"""Nor on how many pairs of layers are measured; that takes minutes, and is tested with the allocator."""
MODELS = {"vit": vit_adapter, "swin": swin_adapter}


def scores_inputs_by_themselves(name):
    """Whether inputs may have a limit of their own."""
    if CLASSES[name] is LeastScore:
        return metrics()[VALUES[name]["metric"]].scores_inputs
    return CLASSES[name].scores_inputs and CLASSES[name].several_limits


def budget(weight=3, activation=None, rule="fixed", operands="target"):
    weight, activation = Fraction(str(weight)), Fraction(str(activation or weight))
    fixed = (int(weight), int(activation))
    return Budget(weight, activation, (2, 3, 4, 5), rule, fixed, operands)


@functools.cache
def configuration(name):
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        chosen = [f"allocator={name}", "base_quantizer=rtn", *FEW, *CHEAP.get(name, ())]
        return hydra.compose("config", overrides=chosen)


class Setup:
    """An allocator of the configuration, over a small model, on a store of its own."""

    def __init__(self, name, model, root, target=None, seed=0):
        self.budget = target or budget()
        self.search = search_over(MODELS[model](), root, seed=seed)
        sites = self.search.adapter.sites
        given = {"plan": root / f"given_{model}.json"}  # for allocators that want a file
        bits = {site.name: int(self.budget.weight_bits) for site in self.search.layers}
        root.mkdir(exist_ok=True)
        self.budget.plan(sites, bits, {"allocator": "by hand"}).write(given["plan"])
        cfg = copy.deepcopy(configuration(name))
        for key in OmegaConf.missing_keys(cfg):
            OmegaConf.update(cfg, key, str(given[key.removeprefix("allocator.")]))
        self.allocator = construct("allocator", resolved(cfg)["allocator"])

    def allocate(self):
        return self.allocator.allocate(self.search, self.budget)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(params=MODELS)
def model(request):
    return request.param


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One store: what is tested with it does not depend on what is computed again."""
    return tmp_path_factory.mktemp("shared")


@functools.cache
def allocated(name, model):
    """A plan made in an empty store, and the model as it was before."""
    setup = Setup(name, model, Path(tempfile.mkdtemp(dir=_folder.name)))
    adapter = setup.search.adapter
    pictures = images(adapter, 2)
    before = adapter.weights_hash(), pictures, adapter.run(pictures), list(adapter.network.modules())
    plan = setup.allocate()
    return SimpleNamespace(setup=setup, plan=plan, before=before, reads=dict(setup.search.task.dataset.reads))


_folder = tempfile.TemporaryDirectory(prefix="lampq-allocated-")


def test_it_says_what_it_is(name, tmp_path):
    allocator = Setup(name, "vit", tmp_path).allocator
    assert isinstance(allocator, Allocator) and allocator.name == name
    assert isinstance(allocator.revision, int) and allocator.revision >= 1
    assert isinstance(allocator.searches, bool)
    assert json.loads(json.dumps(allocator.settings())) == allocator.settings()
    assert Setup(name, "vit", tmp_path).allocator.settings() == allocator.settings()


def test_the_plan_fits_the_model_and_keeps_the_budget_and_its_rules(name, model):
    setup, plan = allocated(name, model).setup, allocated(name, model).plan
    sites = setup.search.adapter.sites
    plan.check_fits(sites)
    setup.budget.check_feasible(sites, plan)
    assert set(plan.layer_bits().values()) <= set(setup.budget.candidates)
    assert plan.key() == setup.budget.plan(sites, plan.layer_bits()).key()
    assert plan.budget == setup.budget.to_json() and "allocator" in plan.origin
    setup.search.bank.calibrate(plan)
    assert BitPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_other_rules_are_kept_too(name, shared):
    for target in (budget(4, 8), budget(4, 8, "follow"), budget(3, operands="follow_qkv")):
        setup = Setup(name, "vit", shared, target)
        plan = setup.allocate()
        assert plan.key() == target.plan(setup.search.adapter.sites, plan.layer_bits()).key(), target
        target.check_feasible(setup.search.adapter.sites, plan)


def test_a_fractional_budget_is_kept_or_refused(name, shared):
    setup = Setup(name, "vit", shared, budget("3.5"))
    try:
        plan = setup.allocate()
    except LampQError as error:
        assert "3.5" in str(error) and "\n" not in str(error)
    else:
        setup.budget.check_feasible(setup.search.adapter.sites, plan)


BOUND = {
    "bops, block 0 pinned": replace(
        budget(4, operands="follow_qkv"), candidates=(2, 3, 5), unit="bops", pins=(("block 0", 6),)
    ),
    "bytes, modules tied": replace(budget("3.5"), candidates=(2, 3, 5), unit="packed_bytes", ties="modules"),
    "fc2 of two blocks tied, two modules pinned": replace(
        budget("3.5"), candidates=(2, 4), ties=(("*blocks.0.mlp.fc2", "*blocks.1.mlp.fc2"),), pins=(("*.1.attn.*", 3),)
    ),
}
"""Limits, ties and pins."""


def spent(search, plan, unit):
    """By the figures that a run reports."""
    if unit == "bops":
        return realised_costs(search.adapter.sites, plan)["bops"]
    if unit == "packed_bytes":
        search.bank.calibrate(plan)
        stored = search.bank.quantizer_parameters(plan)
        return packed_bytes(search.adapter.sites, plan, search.adapter.parameters(), stored)
    return sum(s.parameters * plan[s.name].weight_bits for s in search.layers)


@pytest.mark.parametrize("name", SEARCHING)
@pytest.mark.parametrize("target", BOUND.values(), ids=BOUND)
def test_limits_ties_and_pins_are_kept(name, target, shared):
    # A Swin, where blocks differ in size, for one kind of limit.
    for model in MODELS if target.unit == "packed_bytes" else ("vit",):
        setup = Setup(name, model, shared, target)
        search, plan = setup.search, setup.allocate()
        bits, low = plan.layer_bits(), math.floor(target.weight_bits)
        equal = [
            spent(search, target.plan(search.adapter.sites, dict.fromkeys(bits, b)), target.unit)
            for b in (low, low + 1)
        ]
        limit = math.floor(equal[0] + (target.weight_bits - low) * (equal[1] - equal[0]))
        assert spent(search, plan, target.unit) <= limit
        pinned = {s.name: b for s in search.layers for b in (6, 3) if bits[s.name] == b and b not in target.candidates}
        free = {bits[s.name] for s in search.layers if s.name not in pinned}
        if target.unit == "bops":
            assert set(pinned) == {s.name for s in search.layers if s.block == 0} and set(pinned.values()) == {6}
        elif target.ties == "modules":
            assert pinned == {}
            for types in MODULES.values():
                modules = [(s.block, bits[s.name]) for s in search.layers if s.type in types]
                assert len(set(modules)) == search.adapter.blocks
        else:
            assert set(pinned) == {s.name for s in search.layers if ".1.attn." in s.name}
            assert set(pinned.values()) == {3}
            together = [s.name for s in search.layers if s.name.endswith(("blocks.0.mlp.fc2", "blocks.1.mlp.fc2"))]
            assert len({bits[member] for member in together}) == 1 < len(together)
        assert free <= set(target.candidates) and max(free) > min(target.candidates)
        assert plan.key() == target.plan(search.adapter.sites, bits).key() and plan.budget == target.to_json()


def test_pins_above_the_budget_are_one_line(name, shared):
    for unit in ("average_bits", "packed_bytes", "bops"):
        target = replace(budget(), unit=unit, pins=(("blocks.[01].*", 8),))
        setup = Setup(name, "vit", shared, target)
        if not setup.allocator.searches:
            plan = setup.allocate()
            assert set(plan.layer_bits().values()) == {3}, "equal bits and plans from files are not bound"
            continue
        with pytest.raises(
            LampQError, match=r"with pins=\{blocks\.\[01\]\.\*:8\}; .*pin fewer layers or raise bits"
        ) as caught:
            setup.allocate()
        assert "\n" not in str(caught.value), unit


@pytest.mark.parametrize("name", [name for name in NAMES if scores_inputs_by_themselves(name)])
def test_inputs_of_their_own_keep_their_own_target(name, model, shared):
    target = replace(budget(3, "4.5"), activation_rule="independent", input_candidates=(3, 4, 6), pins=(("fc2", 3),))
    setup = Setup(name, model, shared, target)
    plan, layers = setup.allocate(), setup.search.layers
    setup.budget.check_feasible(setup.search.adapter.sites, plan)
    elements = sum(s.input_elements for s in layers)
    average = sum(s.input_elements * plan[s.name].activation_bits for s in layers) / elements
    assert 4 < average <= 4.5
    assert {plan[s.name].bits for s in layers if s.type == "fc2"} == {(3, 3)}
    assert {plan[s.name].activation_bits for s in layers} <= {3, 4, 6}
    assert any(plan[s.name].weight_bits > 3 for s in layers) and len({plan[s.name].activation_bits for s in layers}) > 1


def test_the_same_again_in_another_store_and_from_the_same_store(name, tmp_path):
    first = allocated(name, "vit")
    assert Setup(name, "vit", tmp_path).allocate().to_json() == first.plan.to_json()
    again = Setup(name, "vit", first.setup.search.store.root)
    assert again.allocate().to_json() == first.plan.to_json()
    assert not again.search.store.seconds_computed and again.search.evaluator.evaluations == 0


def test_validation_images_are_never_looked_at_and_d_only_in_a_search(name, model):
    first = allocated(name, model)
    assert first.reads["validation"] == 0
    assert (first.reads["sample"] > 0) == first.setup.allocator.searches


def test_the_full_precision_model_is_left_as_it_was(name, model):
    weights, pictures, logits, modules = allocated(name, model).before
    adapter = allocated(name, model).setup.search.adapter
    assert adapter.weights_hash() == weights and torch.equal(adapter.run(pictures), logits)
    assert all(a is b for a, b in zip(modules, adapter.network.modules(), strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in modules)
    assert not any(p.requires_grad or p.grad is not None for p in adapter.network.parameters())


def test_a_search_ends_no_worse_on_d_than_it_says(name):
    """The accuracy of the plan that is handed over is the one the search has seen last."""
    setup, plan = allocated(name, "vit").setup, allocated(name, "vit").plan
    accepted = [step for step in plan.origin.get("swaps", plan.origin.get("rounds", [])) if step["accepted"]]
    if accepted:
        assert setup.search.evaluator.score(plan).accuracy == accepted[-1]["accuracy"]
    else:
        initial = plan.origin.get("initial_bits", plan.layer_bits())
        assert plan.layer_bits() == initial


def test_equal_bits_are_one_of_the_names():
    assert Uniform().name in NAMES
