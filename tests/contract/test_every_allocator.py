"""What every allocator of conf/allocator keeps to, new ones included."""

import copy
import functools
import json
from fractions import Fraction

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from lampq.allocation.base import Allocator
from lampq.allocation.uniform import Uniform
from lampq.budgets import Budget
from lampq.command_line import config_folder
from lampq.errors import LampQError
from lampq.plan import BitPlan
from lampq.settings import construct, resolved
from tests.small_models import images, search_over, swin_adapter, vit_adapter

NAMES = sorted(path.stem for path in (config_folder() / "allocator").glob("*.yaml"))
FEW = ("max_evaluations=6",)
"""What is tested here does not depend on how many plans a search scores."""
MODELS = {"vit": vit_adapter, "swin": swin_adapter}


def budget(weight=3, activation=None, rule="fixed", operands="target"):
    weight, activation = Fraction(str(weight)), Fraction(str(activation or weight))
    fixed = (int(weight), int(activation))
    return Budget(weight, activation, (2, 3, 4, 5), rule, fixed, operands)


@functools.cache
def configuration(name):
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        return hydra.compose("config", overrides=[f"allocator={name}", "base_quantizer=rtn", *FEW])


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


def test_it_says_what_it_is(name, tmp_path):
    allocator = Setup(name, "vit", tmp_path).allocator
    assert isinstance(allocator, Allocator) and allocator.name == name
    assert isinstance(allocator.revision, int) and allocator.revision >= 1
    assert isinstance(allocator.searches, bool)
    assert json.loads(json.dumps(allocator.settings())) == allocator.settings()
    assert Setup(name, "vit", tmp_path).allocator.settings() == allocator.settings()


def test_the_plan_fits_the_model_and_keeps_the_budget_and_its_rules(name, model, tmp_path):
    setup = Setup(name, model, tmp_path)
    plan, sites = setup.allocate(), setup.search.adapter.sites
    plan.check_fits(sites)
    setup.budget.check_feasible(sites, plan)
    assert set(plan.layer_bits().values()) <= set(setup.budget.candidates)
    assert plan.key() == setup.budget.plan(sites, plan.layer_bits()).key()
    assert plan.budget == setup.budget.to_json() and "allocator" in plan.origin
    setup.search.bank.calibrate(plan)
    assert BitPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize(
    "target",
    [budget(4, 8), budget(4, 8, "follow"), budget(3, operands="follow_qkv")],
    ids=["W4A8 fixed", "W4A8 follow", "operands follow qkv"],
)
def test_other_rules_are_kept_too(name, target, tmp_path):
    setup = Setup(name, "vit", tmp_path, target)
    plan = setup.allocate()
    assert plan.key() == target.plan(setup.search.adapter.sites, plan.layer_bits()).key()
    target.check_feasible(setup.search.adapter.sites, plan)


def test_a_fractional_budget_is_kept_or_refused(name, tmp_path):
    setup = Setup(name, "vit", tmp_path, budget("3.5"))
    try:
        plan = setup.allocate()
    except LampQError as error:
        assert "3.5" in str(error) and "\n" not in str(error)
    else:
        setup.budget.check_feasible(setup.search.adapter.sites, plan)


def test_the_same_again_in_another_store_and_from_the_same_store(name, model, tmp_path):
    first = Setup(name, model, tmp_path / "one").allocate()
    assert Setup(name, model, tmp_path / "other").allocate().to_json() == first.to_json()
    again = Setup(name, model, tmp_path / "one")
    assert again.allocate().to_json() == first.to_json()
    assert not again.search.store.seconds_computed and again.search.evaluator.evaluations == 0


def test_validation_images_are_never_looked_at_and_d_only_in_a_search(name, model, tmp_path):
    setup = Setup(name, model, tmp_path)
    setup.allocate()
    reads = setup.search.task.dataset.reads
    assert reads["validation"] == 0
    assert (reads["sample"] > 0) == setup.allocator.searches


def test_the_full_precision_model_is_left_as_it_was(name, model, tmp_path):
    setup = Setup(name, model, tmp_path)
    adapter = setup.search.adapter
    pictures, before = images(adapter, 2), adapter.weights_hash()
    logits = adapter.run(pictures)
    modules = list(adapter.network.modules())
    setup.allocate()
    assert adapter.weights_hash() == before and torch.equal(adapter.run(pictures), logits)
    assert all(a is b for a, b in zip(modules, adapter.network.modules(), strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in modules)
    assert not any(p.requires_grad or p.grad is not None for p in adapter.network.parameters())


def test_a_search_ends_no_worse_on_d_than_it_says(name, tmp_path):
    """The accuracy of the plan that is handed over is the one the search has seen last."""
    setup = Setup(name, "vit", tmp_path)
    plan = setup.allocate()
    accepted = [swap for swap in plan.origin.get("swaps", []) if swap["accepted"]]
    if accepted:
        assert setup.search.evaluator.score(plan).accuracy == accepted[-1]["accuracy"]
    else:
        initial = plan.origin.get("initial_bits", plan.layer_bits())
        assert plan.layer_bits() == initial


def test_equal_bits_are_one_of_the_names():
    assert Uniform().name in NAMES
