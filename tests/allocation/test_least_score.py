"""The plan of least total score, by output Fisher: the exact optimum, of weights and of inputs, and what is refused."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from lampq.allocation.least_score import LeastScore
from lampq.allocation.solvers.dynamic_program import solve_dynamic_program
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.errors import LampQError
from lampq.plan.bits import Bits
from lampq.sensitivity.metric import Metric
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
        ("output_fish", {}, "allocator.metric=output_fish: must be one of fisher, hessian"),
    ],
)
def test_wrong_values_are_one_line(metric, settings, line):
    with pytest.raises(LampQError) as caught:
        LeastScore(metric, **settings)
    assert line in str(caught.value) and "\n" not in str(caught.value)
