"""Mix-QViT: relevance times loss increase, the exact optimum, what each option changes."""

import json
import math

import pytest

from lampq.allocation.least_score import LeastScore
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.errors import LampQError
from lampq.sensitivity.mix_qvit import MixQViT
from lampq.sensitivity.relevance import relevance_importance
from lampq.sensitivity.scores import falling
from lampq.sensitivity.single_layer_loss import SingleLayerLoss
from tests.allocation.budgets import budget
from tests.small_models import search_over, swin_adapter, vit_adapter

FEW = {"relevance_images": 16}


@pytest.mark.parametrize("build", [vit_adapter, swin_adapter], ids=["vit", "swin"])
def test_scores_are_relevance_times_losses_made_to_fall(build, tmp_path):
    search = search_over(build(), tmp_path)
    plan = LeastScore(MixQViT(**FEW)).allocate(search, budget())
    importance, losses = relevance_importance(search, 16), SingleLayerLoss().scores(search, budget())
    assert plan.origin["importance"] == importance
    for name, row in plan.origin["scores"].items():
        expected = {str(b): importance[name] * max(0.0, v) for b, v in falling(losses[name]).items()}
        assert row == expected
        assert list(row.values()) == sorted(row.values(), reverse=True) and min(row.values()) >= 0
        assert plan[name].score == row["3"]
    assert json.loads(json.dumps(plan.origin)) == plan.origin
    assert math.fsum(importance.values()) == pytest.approx(1)


def test_without_importance_it_is_the_program_of_the_losses(search):
    plan = LeastScore(MixQViT(importance="none", **FEW)).allocate(search, budget())
    losses = SingleLayerLoss().scores(search, budget())
    scores = {name: {str(b): max(0.0, v) for b, v in falling(row).items()} for name, row in losses.items()}
    assert plan.origin["scores"] == scores
    assert set(plan.origin["importance"].values()) == {1.0}


@pytest.mark.parametrize("option", [{"importance": "none"}, {"relevance_images": 8}, {"others": 3}, {"others": 5}])
def test_every_option_changes_the_scores(search, option):
    usual, other = MixQViT(**FEW), MixQViT(**{**FEW, **option})
    assert usual.settings() != other.settings()
    before, after = (LeastScore(metric).allocate(search, budget()) for metric in (usual, other))
    assert before.origin["scores"] != after.origin["scores"]


def test_without_importance_the_number_of_images_is_no_part_of_the_identity():
    assert MixQViT("none", 16).settings() == MixQViT("none", 32).settings()
    assert MixQViT("relevance", 16).settings() != MixQViT("relevance", 32).settings()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"importance": "lrp"}, "allocator.importance=lrp: must be one of relevance, none"),
        ({"relevance_images": 0}, "allocator.relevance_images=0: must be an integer of at least 1"),
        ({"others": "fp"}, "allocator.others=fp: must be full_precision, or an integer of bits"),
        ({"others": 17}, "allocator.others=17: must be an integer"),
        ({"others": True}, "allocator.others=True: must be full_precision"),
    ],
)
def test_wrong_values_are_one_line(options, line):
    with pytest.raises(LampQError) as caught:
        MixQViT(**options)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_bits_at_which_the_base_quantizer_is_not_defined_are_refused(search):
    class FromThreeBits(RoundToNearest):
        minimum_bits = 3

    limited = search_over(vit_adapter(), search.store.root, base_quantizer=FromThreeBits())
    with pytest.raises(LampQError, match=r"allocator.others: rtn is not defined at 2 bits"):
        LeastScore(MixQViT(others=2)).allocate(limited, budget(3, (3, 4)))
