"""What every metric of lampq/sensitivity keeps to, new ones included."""

import json
import math

import pytest
import torch

from lampq.allocation.greedy import Greedy
from lampq.allocation.lampq import LampQ
from lampq.allocation.least_score import LeastScore
from lampq.sensitivity.metric import Metric, metrics
from lampq.sensitivity.trace import Trace
from lampq.transform.hadamard import Hadamard
from tests.allocation.budgets import budget
from tests.bank.test_realisation import OneAfterAnother, uniform
from tests.small_models import images, search_over, swin_adapter, vit_adapter

BUDGET = budget(4, (2, 3, 5))


@pytest.fixture(params=metrics())
def metric(request):
    return metrics()[request.param]()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One store: what is tested with it does not depend on what is computed again."""
    return tmp_path_factory.mktemp("shared")


def test_it_says_what_it_is(metric):
    assert isinstance(metric, Metric) and metrics()[metric.name] is type(metric)
    assert isinstance(metric.revision, int) and metric.revision >= 1
    assert json.loads(json.dumps(metric.settings())) == metric.settings() == type(metric)().settings()


def test_every_layer_has_a_cost_at_every_bit_width_and_few_bits_cost_most(metric, shared):
    search = search_over(vit_adapter(2), shared)
    scores = metric.scores(search, BUDGET)
    assert list(scores) == [s.name for s in search.layers]
    assert all(list(row) == list(BUDGET.candidates) for row in scores.values())
    assert all(math.isfinite(value) for row in scores.values() for value in row.values())
    costs = metric.costs(scores)
    assert all(row[2] >= row[3] >= row[5] for row in costs.values()) and any(row[2] > row[5] for row in costs.values())
    assert json.loads(json.dumps(metric.notes(search))) == metric.notes(search)


def test_a_rotated_network_is_scored_as_any_other(metric, shared):
    # Traces on a Swin: on a rotated ViT a whole search with them is tested in tests/test_quantization.py.
    make = swin_adapter if metric.name == "fisher" else lambda: vit_adapter(2)
    plain, rotated = (search_over(adapter, shared) for adapter in (make(), Hadamard().apply(make())))
    scores = metric.scores(rotated, BUDGET)
    assert list(scores) == [s.name for s in plain.layers]
    assert all(math.isfinite(value) for row in scores.values() for value in row.values())
    assert scores != metric.scores(plain, BUDGET)


class OtherWeights(OneAfterAnother):
    """Realised weights are on a coarser grid than independent ones."""

    def realise_segment(self, segment):
        states = super().realise_segment(segment)
        return {
            name: {key: 1.1 * value if key == "weight_scale" else value for key, value in state.items()}
            for name, state in states.items()
        }


@pytest.mark.parametrize("searched", ["block_bank", "exact"])
def test_quantized_layers_are_those_of_the_network_that_plans_are_scored_with(metric, searched, shared, monkeypatch):
    """A sequential method's independent states are not looked at where plans are scored with realised ones."""
    surrogate = search_over(vit_adapter(2), shared, base_quantizer=OtherWeights("surrogate"))
    realised = search_over(vit_adapter(2), shared, base_quantizer=OtherWeights(searched))
    options = [{}, {"plan": uniform(realised)}] if metric.at_plans else [{}]

    def measured(search):
        if isinstance(metric, Trace):
            return [metric.traces(search, **option) for option in options]
        return [metric.scores(search, BUDGET, **option) for option in options]

    independent = measured(surrogate)

    def refuse(*arguments):
        raise AssertionError("a module of the surrogate was asked for")

    monkeypatch.setattr(realised.bank, "module", refuse)
    same = [one == other for one, other in zip(measured(realised), independent, strict=True)]
    assert same == [isinstance(metric, Trace), False][: len(options)], "a trace in full precision quantizes nothing"


def test_the_same_again_and_nothing_left_behind(metric, tmp_path):
    search = search_over(vit_adapter(2), tmp_path)
    adapter = search.adapter
    pictures, before, modules = images(adapter, 2), adapter.weights_hash(), list(adapter.network.modules())
    logits = adapter.run(pictures)
    scores = metric.scores(search, BUDGET)
    assert search.task.dataset.reads["validation"] == 0
    assert adapter.weights_hash() == before and torch.equal(adapter.run(pictures), logits)
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in modules)
    assert not any(p.requires_grad or p.grad is not None for p in adapter.network.parameters())
    again = search_over(vit_adapter(2), tmp_path)
    assert metric.scores(again, BUDGET) == scores
    assert not again.store.seconds_computed and again.evaluator.evaluations == 0


def test_in_the_model_at_a_plan_it_says_something_else_where_it_can_be_measured_there(metric, shared):
    search = search_over(vit_adapter(2), shared)
    if not metric.at_plans:
        pytest.skip("allocator.resolve is refused")
    measured = metric.traces if hasattr(metric, "traces") else lambda *given, **at: metric.scores(*given, BUDGET, **at)
    plan = BUDGET.plan(search.adapter.sites, {s.name: 3 for s in search.layers})
    assert measured(search, plan=plan) != measured(search) == measured(search, plan=None)


@pytest.mark.parametrize(
    "allocator",
    [
        lambda name: LeastScore(name),
        lambda name: Greedy(screen=name, evaluate=1),
        # Without alpha_t, a ratio to the metric's mean at beta: of an untrained network that may be 0 or less.
        lambda name: LampQ(metric=name, type_scaling=False, try_next_pairs=0),
    ],
    ids=["least_score", "greedy", "lampq"],
)
def test_every_allocator_over_a_metric_takes_it_by_name(metric, allocator, shared):
    search = search_over(vit_adapter(2), shared)
    plan = allocator(metric.name).allocate(search, BUDGET)
    BUDGET.check_feasible(search.adapter.sites, plan)
    assert len(set(plan.layer_bits().values())) > 1
    assert json.loads(json.dumps(plan.origin)) == plan.origin
