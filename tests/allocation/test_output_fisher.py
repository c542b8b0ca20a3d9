"""ModelOpt's allocation: the exact optimum of the scores, and what its option changes."""

import itertools
import math

import pytest

from lampq.allocation.least_score import at_the_target, least_score_plan
from lampq.allocation.output_fisher import OutputFisher
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.errors import LampQError
from lampq.sensitivity.output_fisher import falling, output_fisher
from tests.allocation.budgets import budget
from tests.small_models import search_over, swin_adapter, vit_adapter


def test_the_plan_is_the_best_of_all_by_its_scores(tmp_path):
    search = search_over(vit_adapter(blocks=1), tmp_path)
    plan = OutputFisher().allocate(search, budget())
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
    plan = OutputFisher().allocate(search, budget())
    for name, row in output_fisher(search, budget(), "dataset").items():
        told = plan.origin["scores"][name]
        assert told == {str(bits): value for bits, value in falling(row).items()}
        assert list(told.values()) == sorted(told.values(), reverse=True)
        assert plan[name].score == told["3"]
    assert search.evaluator.scored == 0, "no plan is tried"
    assert len(set(plan.layer_bits().values())) > 1


def test_labels_change_the_scores(search):
    given, drawn = (OutputFisher(labels).allocate(search, budget()) for labels in ("dataset", "sampled"))
    assert given.origin["scores"] != drawn.origin["scores"]
    assert OutputFisher("dataset").settings() != OutputFisher("sampled").settings()


def test_another_order_of_the_bit_set_is_the_same_plan(search):
    one = OutputFisher().allocate(search, budget())
    other = OutputFisher().allocate(search, budget(candidates=(4, 2, 5, 3)))
    assert one.layer_bits() == other.layer_bits()


def test_scores_compare_at_the_target_or_the_next_bits():
    scores = {"a": {2: 9.0, 4: 1.0}}
    assert [at_the_target(scores, budget(t, (2, 4))) for t in (2, 3, 4)] == [{"a": 9.0}, {"a": 1.0}, {"a": 1.0}]
    assert at_the_target(scores, budget(5, (2, 4))) == {"a": 1.0}


def test_what_cannot_be_met_is_one_line(search):
    class FromThreeBits(RoundToNearest):
        minimum_bits = 3

    with pytest.raises(LampQError, match="below the smallest achievable average, 3;"):
        OutputFisher().allocate(search, budget(2, (3, 4)))
    with pytest.raises(LampQError, match="not defined at 2 bits"):
        limited = search_over(vit_adapter(), search.store.root, base_quantizer=FromThreeBits())
        OutputFisher().allocate(limited, budget())
    with pytest.raises(LampQError, match="a cost of layer 1 is not a number"):
        broken = {s.name: dict.fromkeys((2, 3, 4, 5), math.nan if i == 1 else 1.0) for i, s in enumerate(search.layers)}
        least_score_plan(search, budget(), broken, {"allocator": "test"})
    with pytest.raises(LampQError, match=r"allocator\.labels=own: must be one of dataset, sampled"):
        OutputFisher("own")
