"""Type scaling: alpha from single quantized layers, by hand."""

import math
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch

from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.plan.sites import LAYER_TYPES, Site
from lampq.sensitivity.trace import penalized_costs
from lampq.sensitivity.type_scaling import SMALLEST_DROP, TypeScaling, sample_blocks, single_layer_plan, type_scaling
from lampq.tasks.score import Score

BUDGET = Budget(Fraction(3), Fraction(3), (2, 3, 4), "fixed", (3, 3), "target")
IMAGES = 100
SITES = tuple(Site(f"blocks.{b}.{t}", t, b, 12, 12, 3) for b in range(4) for t in LAYER_TYPES)


class MadeUpScores:
    """An evaluator whose answer for a single quantized layer is given: how many images it loses, and loss it gains.

    Args:
        wrong: images answered wrongly with a layer quantized, by layer.
        loss: loss added by a layer, by layer; each image has a little more or less of it.
    """

    def __init__(self, wrong, loss=None):
        self.wrong, self.loss, self.plans, self.bases = wrong, loss or {}, [], []

    def set_base(self, plan):
        self.bases.append(plan.key())

    def score(self, plan):
        self.plans.append(plan)
        changed = [site.name for site in plan.sites if site.bits != (None, None)]
        assert len(changed) <= 1, "one layer at a time"
        correct, loss = torch.ones(IMAGES, dtype=torch.float64), torch.ones(IMAGES, dtype=torch.float64)
        for name in changed:
            correct[: self.wrong.get(name, 0)] = 0
            loss += self.loss.get(name, 0.0) * torch.linspace(0.5, 1.5, IMAGES, dtype=torch.float64)
        return Score(loss, correct)


def scaled(evaluator, traces, blocks=(0, 1, 2, 3), measure="accuracy", beta=2, **options):
    adapter, bank = SimpleNamespace(sites=SITES, blocks=4), SimpleNamespace(prepare=lambda wanted: None)
    workbench = SimpleNamespace(layers=list(SITES), evaluator=evaluator, adapter=adapter, bank=bank)
    return type_scaling(workbench, BUDGET, traces, blocks, beta, measure, **options)


def by_type(**values):
    return {site.name: values[site.type] for site in SITES}


TRACES = {site.name: (1 + site.block) * {"qkv": 2, "proj": 1, "fc1": 3, "fc2": 5}[site.type] for site in SITES}
WRONG = by_type(qkv=12, proj=20, fc1=30, fc2=40)


def test_the_worked_example():
    """A_qkv = 0.12 and a mean trace of 4 give 0.03; a layer of trace 8 then has Omega 0.24."""
    wrong = {**WRONG, "blocks.0.qkv": 6, "blocks.1.qkv": 18}
    traces = {**TRACES, "blocks.0.qkv": 3.0, "blocks.1.qkv": 5.0}
    found = scaled(MadeUpScores(wrong), traces, blocks=(1, 0))
    assert found.drop["qkv"] == pytest.approx(0.12) and found.mean_trace["qkv"] == 4
    assert found.alpha["qkv"] == pytest.approx(0.03)
    omega = found.alpha["qkv"] * 8
    assert omega == pytest.approx(0.24)
    assert penalized_costs({"": omega}, [2, 3], gamma=4)[""] == pytest.approx({2: 0.015, 3: 0.00375})


def test_with_every_block_the_mean_of_omega_over_a_type_is_its_drop():
    wrong = {name: 5 + 3 * index for index, name in enumerate(WRONG)}
    found = scaled(MadeUpScores(wrong), TRACES)
    for type in LAYER_TYPES:
        layers = [site.name for site in SITES if site.type == type]
        omega = [found.alpha[type] * TRACES[name] for name in layers]
        assert math.fsum(omega) / len(omega) == pytest.approx(found.drop[type], rel=1e-12)
        assert found.drop[type] == pytest.approx(sum(wrong[name] for name in layers) / len(layers) / IMAGES)


def test_only_sampled_layers_are_quantized_one_at_a_time_from_full_precision():
    evaluator = MadeUpScores(WRONG)
    found = scaled(evaluator, TRACES, blocks=(2, 0), beta=4)
    full_precision, *singles = evaluator.plans
    assert evaluator.bases == [BitPlan.full_precision(SITES).key()] == [full_precision.key()]
    expected = [single_layer_plan(full_precision, site, 4, BUDGET) for site in SITES if site.block in (0, 2)]
    assert sorted(plan.key() for plan in singles) == sorted(plan.key() for plan in expected)
    assert found.blocks == (2, 0) and found.mean_trace["fc2"] == 5 * (1 + 3) / 2


def test_the_single_layers_input_follows_the_budgets_rule():
    full_precision = BitPlan.full_precision(SITES)
    plan = single_layer_plan(full_precision, SITES[1], 2, BUDGET)
    assert plan[SITES[1].name].bits == (2, 2)
    w4a8 = Budget(Fraction(4), Fraction(8), (2, 3, 4), "fixed", (4, 8), "target")
    assert single_layer_plan(full_precision, SITES[1], 2, w4a8)[SITES[1].name].bits == (2, 8)
    follow = Budget(Fraction(4), Fraction(8), (2, 3, 4), "follow", (4, 8), "target")
    assert single_layer_plan(full_precision, SITES[1], 2, follow)[SITES[1].name].bits == (2, 6)


def test_standard_errors_are_paired_and_have_images_and_blocks_as_the_sample():
    """Two layers lose the first 6 and the first 18 images: an image loses 1, 1/2 or 0 of its answers on average."""
    wrong = {**WRONG, "blocks.0.qkv": 6, "blocks.1.qkv": 18}
    found = scaled(MadeUpScores(wrong), TRACES, blocks=(0, 1))
    mean = 0.12
    squares = 6 * (1 - mean) ** 2 + 12 * (0.5 - mean) ** 2 + 82 * mean**2
    assert found.drop_standard_error_over_images["qkv"] == pytest.approx(math.sqrt(squares / 99 / 100), rel=1e-12)
    # Two blocks of four, drops of 0.06 and 0.18: half of the variance of their mean is left.
    blocks = (0.06**2 + 0.06**2) / 2 / 2
    assert found.drop_standard_error["qkv"] == pytest.approx(math.sqrt(squares / 99 / 100 + blocks), rel=1e-12)


def test_blocks_add_nothing_where_all_are_sampled_and_one_does_not_tell():
    everything = scaled(MadeUpScores(WRONG), TRACES)
    assert everything.drop_standard_error == everything.drop_standard_error_over_images
    single = scaled(MadeUpScores(WRONG), TRACES, blocks=(1,))
    assert single.drop_standard_error == dict.fromkeys(LAYER_TYPES) and single.measure == "accuracy"


def test_auto_may_count_the_noise_of_blocks():
    """Images alone tell that proj costs accuracy, blocks differ too much to tell of all of them."""
    wrong = {**WRONG, "blocks.0.proj": 0, "blocks.1.proj": 40}
    two = {"traces": TRACES, "blocks": (0, 1), "measure": "auto"}
    assert scaled(MadeUpScores(wrong), **two).measure == "accuracy"
    assert scaled(MadeUpScores(wrong), **two, noise="blocks_and_images").measure == "loss"
    assert scaled(MadeUpScores(WRONG), **two, noise="blocks_and_images").measure == "accuracy"
    one = {**two, "blocks": (1,)}
    assert scaled(MadeUpScores(WRONG), **one).measure == "accuracy"
    assert scaled(MadeUpScores(WRONG), **one, noise="blocks_and_images").measure == "loss", (
        "a single block says nothing"
    )


def test_auto_takes_accuracy_unless_a_type_is_within_noise():
    assert scaled(MadeUpScores(WRONG), TRACES, measure="auto").measure == "accuracy"
    for few in (0, 1, 3):
        wrong = {**WRONG, **{f"blocks.{b}.proj": few for b in range(4)}}
        loss = by_type(qkv=0.4, proj=0.2, fc1=0.6, fc2=0.8)
        found = scaled(MadeUpScores(wrong, loss), TRACES, measure="auto")
        assert found.measure == "loss"
        assert found.drop == {type: pytest.approx(loss[f"blocks.0.{type}"]) for type in LAYER_TYPES}
    accuracy = scaled(MadeUpScores(wrong, loss), TRACES, measure="accuracy")
    assert accuracy.measure == "accuracy" and accuracy.drop["proj"] == pytest.approx(0.03)
    assert scaled(MadeUpScores(WRONG, loss), TRACES, measure="loss").measure == "loss"


def test_no_type_gets_a_zero_or_negative_alpha():
    loss = by_type(qkv=-0.4, proj=0.0, fc1=0.6, fc2=0.8)
    found = scaled(MadeUpScores({}, loss), {name: 0.0 if "fc2" in name else t for name, t in TRACES.items()})
    assert all(alpha > 0 and math.isfinite(alpha) for alpha in found.alpha.values())
    assert found.alpha["qkv"] == SMALLEST_DROP / found.mean_trace["qkv"] and found.drop["qkv"] == 0
    found = scaled(MadeUpScores({}, loss), TRACES, measure="loss")
    assert found.drop["qkv"] == pytest.approx(-0.4), "what was measured is reported as it is"
    assert found.alpha["qkv"] == SMALLEST_DROP / found.mean_trace["qkv"]


@pytest.mark.parametrize(
    ("blocks", "mu", "count"), [(12, 0.25, 3), (12, 1, 12), (12, 0.01, 1), (3, 0.5, 2), (1, 0.5, 1)]
)
def test_number_of_sampled_blocks(blocks, mu, count):
    found = sample_blocks(blocks, mu, 0)
    assert len(found) == len(set(found)) == count and set(found) <= set(range(blocks))


def test_a_larger_mu_contains_a_smaller_one_and_seeds_differ():
    for seed in range(5):
        everything = sample_blocks(12, 1, seed)
        for mu in (0.25, 0.5, 0.75):
            assert sample_blocks(12, mu, seed) == everything[: round(12 * mu)]
    assert len({sample_blocks(12, 0.5, seed) for seed in range(5)}) > 1


def test_what_is_recorded():
    found = scaled(MadeUpScores(WRONG), TRACES, blocks=(3, 1))
    recorded = found.to_json()
    assert recorded["blocks"] == [3, 1] and recorded["measure"] == "accuracy"
    assert set(recorded) == set(TypeScaling.__dataclass_fields__)
