"""Scores of plans on D: the same from kept states as from the images, and kept on disk."""

import pytest
import torch

import lampq.tasks.sample_evaluation
from lampq.bank.quantized_model import QuantizedModel
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.storage.store import Store
from lampq.tasks.sample_evaluation import CHUNK_ON_CPU, FIRST_LOOK, SampleEvaluator, given_up_after
from lampq.tasks.score import Score, paired_change
from tests.small_models import distilled_adapter, search_over, swin_adapter, vit_adapter

BUDGET = Budget(3, 3, (2, 3, 4), "fixed", (3, 3), "target")


def evaluator_of(search, root, limit, images=None):
    quantized = QuantizedModel(search.adapter, search.bank)
    return SampleEvaluator(quantized, search.task, Store(root), search.bank.identity, limit, images)


def plans_of(search):
    """A base plan, and plans that differ from it in each segment."""
    base = BUDGET.plan(search.adapter.sites, {site.name: 3 for site in search.layers})
    plans = [base, BitPlan.full_precision(search.adapter.sites)]
    for segment in range(search.adapter.segments):
        site = next(s for s in reversed(search.adapter.sites) if search.adapter.segment_of(s) == segment)
        plans.append(base.with_bits({site.name: (4, 4)}))
    return plans


def directly(search, plan):
    """Loss and correctness from the images, the model's own forward, no evaluator."""
    quantized = QuantizedModel(search.adapter, search.bank).apply(plan)
    with torch.inference_mode():
        chunks = search.task.sample_images.split(CHUNK_ON_CPU)
        logits = torch.cat([quantized.adapter.network(chunk) for chunk in chunks])
    return search.task.outcome(logits, search.task.sample_labels)


@pytest.mark.parametrize("build", [vit_adapter, distilled_adapter, swin_adapter])
@pytest.mark.parametrize("limit", ["none", "one state", "all"])
def test_scores_from_kept_states_are_those_from_the_images(tmp_path, build, limit):
    search = search_over(build(), tmp_path / "bank", sample_images=64)
    first_block = search.adapter.run_segment(0, search.task.sample_images)
    size = first_block.numel() * first_block.element_size()
    room = {"none": 0, "one state": size, "all": 2**40}[limit]
    evaluator = evaluator_of(search, tmp_path / "scores", room)
    base, *others = plans_of(search)
    evaluator.set_base(base)
    for plan in (base, *others):
        expected = directly(search, plan)
        score = evaluator.score(plan)
        assert torch.equal(score.loss, expected["loss"]) and torch.equal(score.correct, expected["top1"])
    kept = sum(state.numel() * state.element_size() for index, state in evaluator._states.items() if index > 0)
    assert kept <= room
    assert len(evaluator._states) == {"none": 1, "one state": 2, "all": search.adapter.segments}[limit]


def test_only_the_changed_blocks_are_run_again(tmp_path):
    search = search_over(vit_adapter(3), tmp_path / "bank")
    evaluator = evaluator_of(search, tmp_path / "scores", 2**40)
    base, _, *changed = plans_of(search)
    evaluator.set_base(base)
    evaluator.score(base)
    runs = []
    segment = evaluator.quantized.adapter.run_segment
    evaluator.quantized.adapter.run_segment = lambda index, state: runs.append(index) or segment(index, state)
    for first, plan in enumerate(changed):
        runs.clear()
        evaluator.score(plan)
        assert sorted(set(runs)) == list(range(first, search.adapter.segments))


def test_another_base_is_another_set_of_states(tmp_path):
    search = search_over(vit_adapter(), tmp_path / "bank")
    evaluator = evaluator_of(search, tmp_path / "scores", 2**40)
    base, full_precision, *_, late = plans_of(search)
    for one in (base, full_precision, base):
        evaluator.set_base(one)
        evaluator.score(one)
        evaluator.score(late)
        plan = late.with_bits({"blocks.2.mlp.fc2": (2, 2)}) if one is base else one
        assert torch.equal(evaluator.score(plan).loss, directly(search, plan)["loss"])


def test_the_states_of_a_kept_score_become_the_base(tmp_path):
    """An accepted swap costs no pass of its own: its states are those of the score that accepted it."""
    search = search_over(vit_adapter(3), tmp_path / "bank")
    evaluator = evaluator_of(search, tmp_path / "scores", 2**40)
    base, *_, late = plans_of(search)
    evaluator.set_base(base)
    evaluator.score(late, keep=True)
    runs = []
    segment = evaluator.quantized.adapter.run_segment
    evaluator.quantized.adapter.run_segment = lambda index, state: runs.append(index) or segment(index, state)
    evaluator.set_base(late)
    later = late.with_bits({"blocks.2.mlp.fc2": (2, 2)})
    assert torch.equal(evaluator.score(later).loss, directly(search, later)["loss"])
    assert min(runs) == 3  # the last block and the tail, nothing before


def test_scores_are_kept_on_disk(tmp_path):
    search = search_over(vit_adapter(), tmp_path / "bank")
    first = evaluator_of(search, tmp_path / "scores", 2**40)
    plans = plans_of(search)
    scores = [first.score(plan) for plan in plans]
    for plan in plans:
        first.score(plan)
    assert first.evaluations == len(plans)
    other = search_over(vit_adapter(), tmp_path / "bank")
    second = evaluator_of(other, tmp_path / "scores", 0)
    for plan, score in zip(plans, scores, strict=True):
        assert torch.equal(second.score(plan).loss, score.loss)
    assert second.evaluations == 0 and other.task.dataset.reads["sample"] == 0


@pytest.mark.parametrize("change", [{"seed": 1}, {"sample_images": 32}])
def test_other_images_are_scored_anew(tmp_path, change):
    evaluator_of(search_over(vit_adapter(), tmp_path), tmp_path, 0).score(BitPlan.full_precision(vit_adapter().sites))
    other = evaluator_of(search_over(vit_adapter(), tmp_path, **change), tmp_path, 0)
    other.score(BitPlan.full_precision(vit_adapter().sites))
    assert other.evaluations == 1


@pytest.mark.parametrize("limit", [0, 2**40], ids=["nothing kept", "all kept"])
def test_the_first_images_of_d_are_enough_for_a_search(tmp_path, limit):
    """Their scores are the first entries of the scores on D, and are kept apart from them."""
    search, count = search_over(vit_adapter(), tmp_path / "bank"), 24
    evaluator = evaluator_of(search, tmp_path / "scores", limit, count)
    base, *others = plans_of(search)
    evaluator.set_base(base)
    for plan in (base, *others):
        expected, score = directly(search, plan), evaluator.score(plan)
        # In chunks of other sizes the same image comes out to within rounding.
        torch.testing.assert_close(score.loss, expected["loss"][:count], rtol=1e-4, atol=1e-5)
        assert torch.equal(score.correct, expected["top1"][:count])
    kept = evaluator._states
    for plan in (base, *others):
        assert torch.equal(evaluator.score_on_all(plan).loss, directly(search, plan)["loss"])
    assert evaluator._states is kept and all(len(state) == count for state in kept.values())
    assert (evaluator.images, evaluator.evaluations, evaluator.scored) == (count, 1 + len(others), 1 + len(others))
    again = evaluator_of(search, tmp_path / "scores", limit, count)
    assert len(again.score(base).loss) == count and len(again.score_on_all(base).loss) == 64
    assert again.evaluations == 0 and len(evaluator_of(search, tmp_path / "scores", limit, 12).score(base).loss) == 12


def test_as_many_images_as_d_has_are_all_of_d(tmp_path):
    search = search_over(vit_adapter(), tmp_path)
    plan = BitPlan.full_precision(search.adapter.sites)
    unlimited, limited = evaluator_of(search, tmp_path, 0), evaluator_of(search, tmp_path, 0, 64)
    assert torch.equal(unlimited.score(plan).loss, limited.score(plan).loss)
    assert torch.equal(unlimited.score_on_all(plan).loss, limited.score_on_all(plan).loss)
    assert (unlimited.evaluations, limited.evaluations, limited.images) == (1, 0, 64)


@pytest.mark.parametrize("images", [None, 20])
def test_full_precision_logits(tmp_path, images):
    search = search_over(swin_adapter(), tmp_path)
    for limit in (0, 2**40):
        evaluator = evaluator_of(search, tmp_path, limit, images)
        evaluator.set_base(plans_of(search)[0])
        evaluator.quantized.apply(plans_of(search)[0])
        with torch.inference_mode():
            expected = torch.cat([search.adapter.run(c) for c in search.task.sample_images.split(CHUNK_ON_CPU)])
        assert torch.equal(evaluator.full_precision_logits(), expected)


def test_an_interrupted_evaluation_leaves_a_usable_evaluator(tmp_path, monkeypatch):
    search = search_over(vit_adapter(), tmp_path / "bank")
    evaluator = evaluator_of(search, tmp_path / "scores", 2**40)
    base, *_, late = plans_of(search)
    evaluator.set_base(base)

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lampq.tasks.sample_evaluation, "progress", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluator.score(base)
    for plan in (base, late):
        assert torch.equal(evaluator.score(plan).loss, directly(search, plan)["loss"])


def test_a_plan_that_is_clearly_worse_is_given_up_after_a_part_of_d(tmp_path):
    search = search_over(vit_adapter(), tmp_path / "bank", sample_images=230)
    evaluator = evaluator_of(search, tmp_path / "scores", 2**40)
    base = BUDGET.plan(search.adapter.sites, {site.name: 4 for site in search.layers})
    worse = BUDGET.plan(search.adapter.sites, {site.name: 2 for site in search.layers})
    evaluator.set_base(base)
    part, rival = evaluator.score_unless_worse(worse, base, 3.0, keep=True), evaluator.score(base)
    assert len(part.loss) == len(part.correct) == FIRST_LOOK < len(rival.loss) == 230
    change, error = paired_change(part, Score(rival.loss[:FIRST_LOOK]))
    assert change > 3 * error

    # The whole score is computed when it is asked for, and cut from then on: what comes out is the same.
    whole = evaluator.score(worse)
    assert torch.equal(whole.loss, directly(search, worse)["loss"]) and torch.equal(whole.loss[:FIRST_LOOK], part.loss)
    assert torch.equal(evaluator.score_unless_worse(worse, base, 3.0).loss, part.loss)
    assert evaluator.evaluations == 3

    # A better plan is looked at on all of D, and its score is an ordinary one.
    assert len(evaluator.score_unless_worse(base, worse, 3.0).loss) == 230
    again = evaluator_of(search, tmp_path / "scores", 0)
    better = base.with_bits({search.layers[0].name: (3, 3)})
    assert len(again.score_unless_worse(better, worse, 3.0).loss) == 230 and again.evaluations == 1
    assert again.best_first()[0].key() == better.key(), "it counts among the plans that were scored whole"
    assert torch.equal(again.score(better).loss, directly(search, better)["loss"]) and again.evaluations == 1


def test_a_plan_that_was_given_up_is_read_and_its_states_are_not_kept(tmp_path):
    search = search_over(vit_adapter(), tmp_path / "bank", sample_images=160)
    base = BUDGET.plan(search.adapter.sites, {site.name: 4 for site in search.layers})
    worse = BUDGET.plan(search.adapter.sites, {site.name: 2 for site in search.layers})
    first = evaluator_of(search, tmp_path / "scores", 2**40)
    first.set_base(base)
    part = first.score_unless_worse(worse, base, 3.0, keep=True)
    first.set_base(worse)
    late = worse.with_bits({search.layers[-1].name: (3, 3)})
    assert torch.equal(first.score(late).loss, directly(search, late)["loss"])
    second = evaluator_of(search, tmp_path / "scores", 2**40)
    assert torch.equal(second.score_unless_worse(worse, base, 3.0).loss, part.loss) and second.evaluations == 0


def test_when_a_plan_is_given_up_by_hand():
    """The difference is 1 for every second image, 0 for the others: after n images sqrt(n - 1) standard errors."""
    other = torch.zeros(200, dtype=torch.float64)
    loss = torch.tensor([1.0, 0.0] * 100, dtype=torch.float64)
    assert given_up_after(loss, other, 9.7) == 96 and given_up_after(loss, other, 10) == 144
    assert given_up_after(loss[:100], other, 10) is None and given_up_after(loss, other, 14) is None
    assert given_up_after(-loss, other, 0.1) is None and given_up_after(loss[:50], other, 0.1) is None
