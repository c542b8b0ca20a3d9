"""Losses of pairs: CLADO's worked example, the plans they are measured on, and how little is run for them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lampq.allocation.search_space import SearchSpace
from lampq.bank.quantized_model import QuantizedModel
from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.plan.sites import LAYER_TYPES
from lampq.sensitivity.pairwise_loss import PAIRS, PairwiseLosses, neighbours, pairwise_losses
from lampq.tasks.sample_evaluation import CHUNK_ON_CPU
from lampq.tasks.score import Score
from tests.allocation.budgets import budget
from tests.small_models import search_over, swin_adapter, vit_adapter

FEW = budget(candidates=(2, 4))


def opened(root, build=vit_adapter, target=FEW, **changes):
    search = search_over(build(**changes), root, sample_images=20)
    return search, SearchSpace.open(search, target).groups


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def measured(root):
    search, groups = opened(root)
    return search, groups, pairwise_losses(search, FEW, groups, "all")


def test_two_layers_alone_cost_twice_their_common_loss():
    losses = PairwiseLosses(0.0, [np.array([1.0]), np.array([2.0])], {(0, 1): np.array([[2.5]])})
    assert losses.cross_terms()[0, 1] == -0.5
    assert (losses.matrix() == [[2, -0.5], [-0.5, 4]]).all()
    assert np.ones(2) @ losses.matrix() @ np.ones(2) == 5 == 2 * 2.5


def test_the_matrix_has_an_entry_for_each_group_and_bit_width():
    single = [np.array([3.0, 1.0]), np.array([5.0]), np.array([4.0, 2.0])]
    losses = PairwiseLosses(0.0, single, {(0, 1): np.array([[7.0], [6.0]]), (0, 2): np.array([[8.0, 4.0], [6.0, 3.0]])})
    assert losses.matrix().tolist() == [
        [6, 0, -1, 1, -1],
        [0, 2, 0, 1, 0],
        [-1, 0, 10, 0, 0],
        [1, 1, 0, 8, 0],
        [-1, 0, 0, 0, 4],
    ]


@pytest.mark.parametrize("build", [vit_adapter, swin_adapter], ids=["vit", "swin"])
def test_the_losses_are_those_of_the_model_itself(build, tmp_path):
    """Two layers of one block, of neighbours and from far apart, each by the network's own forward pass."""
    search, groups = opened(tmp_path, build)
    losses = pairwise_losses(search, FEW, groups, "all")
    full_precision = BitPlan.full_precision(search.adapter.sites)

    def loss(bits):
        adapter = QuantizedModel(search.adapter, search.bank).apply(full_precision.with_bits(bits)).adapter
        with torch.inference_mode():
            logits = adapter.network(search.task.sample_images)
        return search.task.outcome(logits, search.task.sample_labels)["loss"].mean().item()

    base, last = loss({}), len(groups) - 1
    assert losses.full_precision == pytest.approx(base, rel=1e-6)
    for (i, j), (row, column) in zip([(0, 1), (1, 6), (0, last)], [(0, 0), (0, 1), (1, 0)], strict=True):
        one, other = ({groups[k].name: (b, b)} for k, b in ((i, (2, 4)[row]), (j, (2, 4)[column])))
        assert losses.single[i][row] == pytest.approx(loss(one) - base, abs=1e-6)
        assert losses.single[j][column] == pytest.approx(loss(other) - base, abs=1e-6)
        assert losses.pair[i, j][row, column] == pytest.approx(loss(one | other) - base, abs=1e-6)
    assert max(np.abs(terms).max() for terms in losses.cross_terms().values()) > 1e-3


def test_every_pair_is_measured_once_or_only_near_ones_or_none(measured, root):
    _, groups, losses = measured
    assert set(losses.pair) == {(i, j) for j in range(12) for i in range(j)}
    found = {pairs: pairwise_losses(opened(root)[0], FEW, groups, pairs) for pairs in PAIRS}
    assert set(found["near"].pair) == {p for p in losses.pair if abs(p[0] // 4 - p[1] // 4) <= 1} != set(losses.pair)
    assert found["diagonal"].pair == {} and np.count_nonzero(found["diagonal"].matrix()) == 24
    for one in found.values():
        assert all((a == b).all() for a, b in zip(one.single, losses.single, strict=True))
        assert all((terms == losses.pair[pair]).all() for pair, terms in one.pair.items())


def test_the_other_input_bits_of_a_budget_change_the_losses(measured, root):
    search, groups = opened(root, target=replace(FEW, activation_bits=8))
    other = pairwise_losses(search, replace(FEW, activation_bits=8), groups, "diagonal")
    assert all((a != b).any() for a, b in zip(other.single, measured[2].single, strict=True))


def test_only_what_follows_the_first_difference_is_run(tmp_path):
    search, groups = opened(tmp_path)
    runs, adapter = [], search.evaluator.quantized.adapter
    segment = adapter.run_segment
    adapter.run_segment = lambda index, state: runs.append(index) or segment(index, state)
    pairwise_losses(search, FEW, groups, "all")
    scores = search.evaluator.evaluations
    assert scores == 1 + 24 + 66 * 4 == search.evaluator.scored
    # The base once; then what differs first in block 0: 8 singles, the first of block 1 (after a base in block 0), and
    # pairs of two layers of block 0, at 4 pairs of bit-widths each; then the same for what differs first in block 1.
    first = 1 + 8 + 1 + 4 * 6
    second = first + 7 + 1 + 4 * (16 + 6)
    chunks = -(-search.task.sample_count // CHUNK_ON_CPU)
    assert [runs.count(index) for index in range(4)] == [chunks * times for times in (1, first, second, scores)]


def test_an_interrupted_measurement_goes_on_at_the_next_score(tmp_path, monkeypatch):
    search, groups = opened(tmp_path, blocks=1)
    score, calls = search.evaluator.score, []

    def until_the_twentieth(plan, keep=False):
        calls.append(plan)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return score(plan, keep)

    monkeypatch.setattr(search.evaluator, "score", until_the_twentieth)
    with pytest.raises(KeyboardInterrupt):
        pairwise_losses(search, FEW, groups, "all")
    again, _ = opened(tmp_path, blocks=1)
    resumed = pairwise_losses(again, FEW, groups, "all")
    assert again.evaluator.evaluations == again.evaluator.scored - 19 == 1 + 8 + 6 * 4 - 19
    third, _ = opened(tmp_path, blocks=1)
    assert (pairwise_losses(third, FEW, groups, "all").matrix() == resumed.matrix()).all()
    assert third.evaluator.evaluations == 0 and third.task.dataset.reads["sample"] == 0
    (fresh,) = [pairwise_losses(opened(tmp_path / "new", blocks=1)[0], FEW, groups, "all")]
    assert (fresh.matrix() == resumed.matrix()).all()


def test_tied_layers_are_one_and_pinned_ones_have_one_bit_width(tmp_path):
    target = replace(budget(candidates=(2, 3)), ties="modules", pins=(("block 0", 5),))
    search, groups = opened(tmp_path, target=target)
    assert [group.name for group in groups][:3] == ["block 0 MSA", "block 0 MLP", "block 1 MSA"]
    losses = pairwise_losses(search, target, groups, "all")
    assert [len(row) for row in losses.single] == [1, 1, 2, 2, 2, 2]
    assert (0, 1) not in losses.pair, "what is pinned is the same in every plan"
    assert losses.pair[0, 2].shape == (1, 2) and losses.matrix().shape == (10, 10)
    plan = BitPlan.full_precision(search.adapter.sites)
    plan = plan.with_bits({s.name: (5, 5) for s in groups[0].layers} | {s.name: (3, 3) for s in groups[4].layers})
    both = search.evaluator.score(plan).mean_loss - losses.full_precision
    assert losses.pair[0, 4][0, 1] == both and search.evaluator.evaluations == search.evaluator.scored


def test_neighbours_share_a_block_or_are_next_to_each_other(tmp_path):
    groups = {group.name: group for group in opened(tmp_path)[1]}
    tied = replace(FEW, ties=((*(f"blocks.{b}.attn.qkv" for b in (0, 2)),),))
    far = next(g for g in opened(tmp_path, target=tied)[1] if len(g.layers) == 2)
    first, second, third = (groups[f"blocks.{b}.mlp.fc1"] for b in range(3))
    assert neighbours(first, groups["blocks.0.attn.qkv"]) and neighbours(first, second)
    assert not neighbours(first, third) and neighbours(far, third) and neighbours(third, far)
    assert {s.type for s in far.layers} < set(LAYER_TYPES)


def test_a_loss_that_is_no_number_is_one_line(tmp_path):
    search, groups = opened(tmp_path)
    score, full = search.evaluator.score, BitPlan.full_precision(search.adapter.sites).key()
    broken = Score(torch.tensor([torch.nan]), torch.tensor([0.0]))
    search.evaluator.score = lambda plan, keep=False: score(plan, keep) if plan.key() == full else broken
    with pytest.raises(LampQError, match=r"^bit_set: the loss on D with blocks\.0\.attn\.qkv at 2 bits is nan; leave"):
        pairwise_losses(search, FEW, groups, "diagonal")
