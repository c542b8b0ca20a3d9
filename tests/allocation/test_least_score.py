"""The plan of least total score, by output Fisher: the exact optimum, of weights and of inputs, and what is refused."""

import itertools
import json
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from lampq.allocation.least_score import LeastScore
from lampq.allocation.search_space import SearchSpace
from lampq.allocation.solvers.dynamic_program import solve_dynamic_program
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.errors import LampQError
from lampq.plan.bits import Bits
from lampq.plan.budget import UNITS, realised_costs
from lampq.plan.sites import ALLOCATE
from lampq.sensitivity.metric import Metric, metrics, metrics_of_sites
from lampq.sensitivity.output_fisher import OutputFisher, output_scores
from lampq.sensitivity.scores import at_the_target, falling
from tests.allocation.budgets import budget
from tests.allocation.solvers.instances import solved
from tests.small_models import search_over, swin_adapter, vit_adapter


def test_the_plan_is_the_best_of_all_by_its_scores(tmp_path):
    search = search_over(vit_adapter(blocks=1), tmp_path)
    plan = LeastScore(OutputFisher()).allocate(search, budget())
    scores, sizes = plan.origin["scores"], [s.parameters for s in search.layers]

    def total(bits):
        return math.fsum(scores[s.name][str(b)] for s, b in zip(search.layers, bits, strict=True))

    every = itertools.product((2, 3, 4, 5), repeat=len(sizes))
    feasible = [b for b in every if sum(c * x for c, x in zip(sizes, b, strict=True)) <= budget().total(sizes)]
    best = min(map(total, feasible))
    assert total(plan.layer_bits().values()) == pytest.approx(best, rel=1e-6)
    assert plan.origin["objective"] == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("build", [vit_adapter, swin_adapter], ids=["vit", "swin"])
def test_the_scores_are_the_metrics_made_to_fall(build, tmp_path):
    search = search_over(build(), tmp_path)
    plan = LeastScore(OutputFisher()).allocate(search, budget())
    for name, row in OutputFisher().scores(search, budget()).items():
        told = plan.origin["scores"][name]
        assert told == {str(bits): value for bits, value in falling(row).items()}
        assert list(told.values()) == sorted(told.values(), reverse=True)
        assert plan[name].score == told["3"]
    assert search.evaluator.scored == 0, "no plan is tried"
    assert len(set(plan.layer_bits().values())) > 1


def test_inputs_of_their_own_have_scores_and_a_target_of_their_own(search):
    target = replace(budget(3), activation_rule="independent")
    plan = LeastScore(OutputFisher()).allocate(search, target)
    weights, inputs = OutputFisher().scores(search, target), OutputFisher().input_scores(search, target)
    images, labels = search.task.sample_images, search.task.sample_labels
    site = search.layers[1]
    for scores, pair in ((weights, Bits(2, None)), (inputs, Bits(None, 2))):
        (expected,) = output_scores(search.adapter, {site.name: [search.bank.module(site, pair)]}, images, labels)
        assert scores[site.name][2] == pytest.approx(expected.item(), rel=1e-9)
    elements = [s.input_elements for s in search.layers]
    for kind, rows, sizes, bits in (
        ("weights", weights, [s.parameters for s in search.layers], [plan[s.name].weight_bits for s in search.layers]),
        ("inputs", inputs, elements, [plan[s.name].activation_bits for s in search.layers]),
    ):
        costs = [[falling(rows[s.name])[b] for b in (2, 3, 4, 5)] for s in search.layers]
        best = solved(solve_dynamic_program, np.array(costs), sizes, (2, 3, 4, 5), 3 * sum(sizes))
        assert bits == best.bits and plan.origin[kind]["objective"] == best.objective
    assert [s.bits for s in plan.sites if s.allocated and s.weight_bits != s.activation_bits]
    other = LeastScore(OutputFisher()).allocate(search, replace(target, activation_bits=Fraction(4)))
    assert other.layer_bits() == plan.layer_bits() and other.key() != plan.key()


def test_labels_change_the_scores(search):
    given, drawn = (LeastScore(OutputFisher(labels)).allocate(search, budget()) for labels in ("dataset", "sampled"))
    assert given.origin["scores"] != drawn.origin["scores"]
    assert OutputFisher("dataset").settings() != OutputFisher("sampled").settings()


def test_another_order_of_the_bit_set_is_the_same_plan(search):
    one = LeastScore(OutputFisher()).allocate(search, budget())
    other = LeastScore(OutputFisher()).allocate(search, budget(candidates=(4, 2, 5, 3)))
    assert one.layer_bits() == other.layer_bits()


def test_scores_compare_at_the_target_or_the_next_bits():
    scores = {"a": {2: 9.0, 4: 1.0}}
    assert [at_the_target(scores, budget(t, (2, 4))) for t in (2, 3, 4)] == [{"a": 9.0}, {"a": 1.0}, {"a": 1.0}]
    assert at_the_target(scores, budget(5, (2, 4))) == {"a": 1.0}


def test_what_cannot_be_met_is_one_line(search):
    class FromThreeBits(RoundToNearest):
        minimum_bits = 3

    with pytest.raises(LampQError, match="below the smallest achievable average, 3;"):
        LeastScore(OutputFisher()).allocate(search, budget(2, (3, 4)))
    with pytest.raises(LampQError, match="not defined at 2 bits"):
        limited = search_over(vit_adapter(), search.store.root, base_quantizer=FromThreeBits())
        LeastScore(OutputFisher()).allocate(limited, budget())
    with pytest.raises(LampQError, match="a cost of layer 1 is not a number"):
        LeastScore(NotANumber()).allocate(search, budget())


class NotANumber(Metric):
    name = "not_a_number"

    def scores(self, workbench, budget):
        return {
            s.name: dict.fromkeys((2, 3, 4, 5), math.nan if i == 1 else 1.0) for i, s in enumerate(workbench.layers)
        }


@pytest.mark.parametrize(
    ("metric", "settings", "line"),
    [
        ("output_fisher", {"labels": "own"}, "allocator.labels=own: must be one of dataset, sampled"),
        ("output_fisher", {"label": "own"}, "allocator.label=own: OutputFisher has no such key; did you mean labels?"),
        ("output_fish", {}, "allocator.metric=output_fish: must be one of "),
    ],
)
def test_wrong_values_are_one_line(metric, settings, line):
    with pytest.raises(LampQError) as caught:
        LeastScore(metric, **settings)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def enumerated(space, scores):
    """The least total score of all choices within a space's limit, one by one."""
    best = math.inf
    for numbers in itertools.product(*(g.bits for g in space.groups)):
        bits = {g.name: n for g, n in zip(space.groups, numbers, strict=True)}
        if space.spent(bits) <= space.room:
            best = min(best, math.fsum(scores[name][pair] for name, pair in space.pairs(numbers).items()))
    return best


@pytest.mark.parametrize("name", metrics_of_sites())
def test_pairs_of_layers_and_operands_together_are_the_best_of_all(name, tmp_path):
    search = search_over(vit_adapter(blocks=1), tmp_path)
    asked = replace(
        budget(3, (2, 3)), unit="bops", activation_rule="independent", allocate="layers_and_operands", limit=None
    )
    asked = replace(asked, input_candidates=(2, 4))
    metric = metrics()[name]()
    plan, (space,) = LeastScore(metric).allocate(search, asked), SearchSpace.each(search, asked)
    costs = metric.site_costs(metric.site_scores(search, asked, space.options))
    chosen = {name: plan[name].bits for name in space.options}
    assert math.fsum(costs[name][bits] for name, bits in chosen.items()) == pytest.approx(
        enumerated(space, costs), rel=1e-6
    )
    sites = search.adapter.sites
    equal = asked.unbound().plan(sites, dict.fromkeys((s.name for s in search.layers), 3))
    assert realised_costs(sites, plan)["bops"] <= realised_costs(sites, equal)["bops"]
    assert plan.budget["allocate"] == "layers_and_operands" and json.loads(json.dumps(plan.origin)) == plan.origin


@pytest.mark.parametrize("unit", UNITS)
def test_what_bits_are_chosen_for_changes_the_plan_and_every_limit_is_kept(unit, search):
    found = {}
    for allocate in ALLOCATE:
        asked = replace(budget(3), unit=unit, allocate=allocate)
        plan = found[allocate] = LeastScore(OutputFisher()).allocate(search, asked)
        equal = asked.unbound().plan(search.adapter.sites, dict.fromkeys((s.name for s in search.layers), 3))
        spent, allowed = ({**realised_costs(search.adapter.sites, p), **search.sizes(p)} for p in (plan, equal))
        keys = ["average_weight_bits_all", "average_operand_bits"] if unit == "average_bits" else [unit]
        keys += ["average_operand_bits"] if unit == "packed_bytes" else []
        assert all(spent[key] <= allowed[key] for key in keys)
        if allocate == "layers":
            continue
        for space, told in zip(SearchSpace.each(search, asked), plan.origin["programs"], strict=True):
            costs = OutputFisher().site_costs(OutputFisher().site_scores(search, asked, space.options))
            best = solve_dynamic_program(space.problem(space.costs(space.by_number(costs))))
            assert told["objective"] == best.objective
            assert {n: plan[n].bits for n in space.options} == space.pairs(best.bits)
    assert len({plan.key() for plan in found.values()}) == 3
    if unit == "average_bits":
        assert found["layers"].layer_bits() == found["layers_and_operands"].layer_bits(), "their limit is the same"


def test_every_limit_of_inputs_and_operands_by_themselves_has_a_program(search):
    asked = replace(budget(3), activation_rule="independent", allocate="layers_and_operands")
    plan = LeastScore(OutputFisher()).allocate(search, asked)
    layers = LeastScore(OutputFisher()).allocate(search, replace(asked, allocate="layers"))
    assert [told["limit"] for told in plan.origin["programs"]] == ["weight bits", "input bits", "operand bits"]
    assert [plan[s.name].bits for s in search.layers] == [layers[s.name].bits for s in search.layers]
    assert {plan[s.name].activation_bits for s in search.adapter.sites if s.is_matmul} > {3}


def test_inputs_of_their_own_by_a_metric_of_sites(search):
    asked = replace(budget(3), activation_rule="independent")
    plan = LeastScore("reconstruction").allocate(search, asked)
    assert [s.bits for s in plan.sites if s.allocated and s.weight_bits != s.activation_bits]


def test_a_metric_of_layers_alone_is_refused_by_name():
    for name in set(metrics()) - set(metrics_of_sites()):
        with pytest.raises(LampQError) as caught:
            LeastScore(name).check_chosen(replace(budget(3), unit="bops", allocate="all"))
        assert f"allocate=all: allocator={name} scores layers by metric={name}, which scores nothing else" in str(
            caught.value
        )
        assert all(other in str(caught.value) for other in metrics_of_sites()) and "\n" not in str(caught.value)
