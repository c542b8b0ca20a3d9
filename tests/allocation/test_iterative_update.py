"""The iterative update: which pairs are tried, which are kept, and that the budget and D's verdict are obeyed."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from lampq.allocation.iterative_update import UpdateRules, by_reconstruction, iterative_update, ranked_swaps
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from lampq.plan.groups import Group
from lampq.plan.sites import Site
from lampq.sensitivity.expected_error import cost_of_one_bit_less, expected_ratios, gain_of_one_bit_more, paper_ratios
from lampq.sensitivity.reconstruction_error import reconstruction_errors
from lampq.tasks.score import Score
from tests.bank.test_realisation import OneAfterAnother
from tests.small_models import search_over, swin_adapter, vit_adapter


def budget(target=3, candidates=(2, 3, 4, 5)):
    target = Fraction(str(target))
    return Budget(target, target, candidates, "fixed", (int(target), int(target)), "target")


def layers(*sizes):
    return [Site(str(index), "fc1", 0, size, size, 1) for index, size in enumerate(sizes)]


def names(pairs):
    return [(up.name, down and down.name) for up, down in pairs]


def rank(sites, bits, gains, costs, literal=False, additions=False, **target):
    asked = budget(**target)
    lowest = min(asked.candidates)
    groups = [Group(s.name, (s,), {b: s.parameters * (b - lowest) for b in asked.candidates}, False) for s in sites]
    room = asked.total([s.parameters for s in sites]) - sum(s.parameters * b for s, b in zip(sites, bits, strict=True))
    bits, gains, costs = ({str(i): v for i, v in enumerate(values)} for values in (bits, gains, costs))
    return names(ranked_swaps(groups, bits, gains, costs, room, literal, additions))


def test_feasible_pairs_by_gain_minus_cost():
    found = rank(layers(1, 1, 1), (3, 3, 3), (5.0, 1.0, 3.0), (4.0, 0.5, 2.0))
    assert found == [("0", "1"), ("0", "2"), ("2", "1"), ("1", "2"), ("2", "0"), ("1", "0")]


def test_pairs_that_leave_the_budget_are_not_feasible():
    sites = layers(4, 1, 4)
    assert rank(sites, (3, 3, 3), (9.0, 9, 9), (1.0, 1, 1)) == [("0", "2"), ("1", "0"), ("1", "2"), ("2", "0")]
    # Three weight bits are to spare: now a layer of four may be paid by a layer of one.
    assert ("0", "1") in rank(sites, (3, 3, 3), (9.0, 9, 9), (1.0, 1, 1), target=Fraction(30, 9))
    assert ("0", "1") not in rank(sites, (3, 3, 3), (9.0, 9, 9), (1.0, 1, 1), target=Fraction(29, 9))


def test_no_layer_leaves_the_bit_set():
    assert rank(layers(1, 1), (5, 2), (9.0, 9), (1.0, 1), target=3.5) == [("1", "0")]
    assert rank(layers(1, 1), (5, 5), (9.0, 9), (1.0, 1), target=5) == []


def test_steps_are_those_of_the_bit_set():
    """{2, 4, 8}: from 2 to 4 takes two bits of a weight, from 4 to 8 four, from 8 to 4 frees four."""
    sites = layers(1, 1, 2)
    assert rank(sites, (2, 4, 4), (9.0, 9, 9), (1.0, 1, 1), target=3.5, candidates=(2, 4, 8)) == [
        ("0", "1"),
        ("0", "2"),
        ("1", "2"),
    ]


def test_the_literal_pair_is_the_best_with_the_cheapest_whatever_the_budget():
    sites = layers(4, 1, 4)
    assert rank(sites, (3, 3, 3), (9.0, 1, 8), (2.0, 0.1, 3), literal=True) == [("0", "1")]
    assert rank(sites, (3, 3, 3), (1.0, 9, 8), (2.0, 0.1, 3), literal=True) == [("1", "0")], "never with itself"
    assert rank(layers(4), (3,), (9.0,), (1.0,), literal=True) == []


def test_a_bit_is_only_added_where_the_budget_has_room_and_ranks_by_its_gain():
    """Four weight bits to spare: the first two layers fit, the third, of five, needs another that pays."""
    sites, gains, costs = layers(4, 1, 5), (3.0, 2.0, 9.0), (1.5, 1.0, 8.0)
    found = rank(sites, (3, 3, 3), gains, costs, additions=True, target=Fraction(34, 10))
    assert found == [("2", "1"), ("2", "0"), ("0", None), ("0", "1"), ("1", None), ("1", "0"), ("0", "2"), ("1", "2")]
    assert [pair for pair in found if pair[1]] == rank(sites, (3, 3, 3), gains, costs, target=Fraction(34, 10))
    assert None not in {down for _, down in rank(sites, (3, 3, 3), gains, costs, additions=True)}, "no room"


@pytest.mark.parametrize(("bits", "up", "down"), [(3, 0.3936, 2.795)])
def test_worked_example_of_gain_and_cost(bits, up, down):
    """With the printed ratios: L = 0.5 at 3 bits."""
    assert gain_of_one_bit_more(0.5, bits, paper_ratios()) == pytest.approx(up, abs=5e-5)
    assert cost_of_one_bit_less(0.5, bits, paper_ratios()) == pytest.approx(down, abs=5e-4)


class Verdicts:
    """An evaluator that gives the plans it is asked for the given numbers of right answers, one after another."""

    def __init__(self, *correct, loss=1.0):
        self.answers, self.loss = list(correct), loss
        self.plans, self.bases = [], []

    def set_base(self, plan):
        self.bases.append(plan.key())

    def score(self, plan, keep=False):
        self.plans.append(plan)
        correct = self.answers[min(len(self.plans), len(self.answers)) - 1]
        loss = self.loss if isinstance(self.loss, float) else self.loss[len(self.plans) - 1]
        return Score(torch.tensor([loss], dtype=torch.float64), torch.tensor([float(correct)], dtype=torch.float64))


AS_PRINTED = UpdateRules(
    literal=False,
    try_next_pairs=0,
    maximum_swaps=50,
    max_evaluations=None,
    accept="accuracy",
    accept_factor=1.0,
    additions=False,
    stop_early=None,
)


EXPECTED = expected_ratios()


def updated(search, target, plan=None, ratios=EXPECTED, **rules):
    order = by_reconstruction(search, target, ratios)
    plan = plan or target.plan(search.adapter.sites, {site.name: 3 for site in search.layers}, {"allocator": "test"})
    return iterative_update(plan, search, target, order, replace(AS_PRINTED, **rules))


def weight_bits(search, plan):
    return sum(site.parameters * plan[site.name].weight_bits for site in search.layers)


def difference(before, after):
    """Layers whose bits differ, and by how much."""
    return {
        name: after.layer_bits()[name] - bits
        for name, bits in before.layer_bits().items()
        if after.layer_bits()[name] != bits
    }


@pytest.mark.parametrize("build", [vit_adapter, swin_adapter])
@pytest.mark.parametrize("ratios", [expected_ratios(), None], ids=["expected", "measured"])
def test_accepted_plans_are_never_worse_and_never_above_the_budget(tmp_path, build, ratios):
    search = search_over(build(), tmp_path)
    target = budget(3)
    start = target.plan(search.adapter.sites, {site.name: 3 for site in search.layers}, {"allocator": "test"})
    plan, history = updated(search, target, start, ratios=ratios, try_next_pairs=6)
    assert any(swap["accepted"] for swap in history), "no swap was accepted, so nothing was tested"
    assert weight_bits(search, plan) <= target.total([site.parameters for site in search.layers])
    target.check_feasible(search.adapter.sites, plan)
    assert plan.origin == start.origin and plan.budget == start.budget

    # Follow the history: every accepted swap is better than the plan before, every other is not.
    bits, best = dict(start.layer_bits()), search.evaluator.score(start)
    tried = {start.key()}
    for swap in history:
        swapped = {**bits, swap["up"]: bits[swap["up"]] + 1, swap["down"]: bits[swap["down"]] - 1}
        candidate = target.plan(search.adapter.sites, swapped)
        assert candidate.key() not in tried, "a plan was tried twice"
        tried.add(candidate.key())
        target.check_feasible(search.adapter.sites, candidate)
        score = search.evaluator.score(candidate)
        assert (score.accuracy, score.mean_loss) == (swap["accuracy"], swap["loss"])
        assert swap["accuracy_before"] == best.accuracy
        better = (score.accuracy, -score.mean_loss) > (best.accuracy, -best.mean_loss)
        assert swap["accepted"] == better
        if better:
            bits, best = swapped, score
    assert plan.layer_bits() == bits


def test_the_first_pair_that_fails_ends_it(tmp_path):
    verdicts = Verdicts(5, 6, 7, 6, 99)
    search = replace(search_over(vit_adapter(), tmp_path), evaluator=verdicts)
    plan, history = updated(search, budget())
    assert [swap["accepted"] for swap in history] == [True, True, False]
    start, first, second, failed = verdicts.plans
    assert plan.key() == second.key() and len(verdicts.plans) == 4
    assert verdicts.bases == [start.key(), first.key(), second.key()]
    for before, after in ((start, first), (first, second), (second, failed)):
        assert sorted(difference(before, after).values()) == [-1, 1]


def test_equal_accuracy_needs_a_lower_loss(tmp_path):
    search = search_over(vit_adapter(), tmp_path)
    plan, history = updated(replace(search, evaluator=Verdicts(5, 5, 5, loss=[1.0, 0.9, 0.9])), budget())
    assert [swap["accepted"] for swap in history] == [True, False]
    assert [swap["loss"] for swap in history] == [0.9, 0.9] and plan.layer_bits() != {}


@pytest.mark.parametrize("next_pairs", [0, 1, 3])
def test_further_pairs_are_tried_after_one_that_failed(tmp_path, next_pairs):
    search = search_over(vit_adapter(), tmp_path)
    verdicts = Verdicts(5, 4)
    plan, history = updated(replace(search, evaluator=verdicts), budget(), try_next_pairs=next_pairs)
    assert len(history) == 1 + next_pairs and not any(swap["accepted"] for swap in history)
    assert plan.key() == verdicts.plans[0].key()
    assert len({candidate.key() for candidate in verdicts.plans}) == 2 + next_pairs
    promise = [swap["gain"] - swap["cost"] for swap in history]
    assert promise == sorted(promise, reverse=True)
    # The second pair succeeds: the count of failures starts again with the next swap.
    verdicts = Verdicts(5, 4, 6, 3, 7, 2)
    _, history = updated(replace(search, evaluator=verdicts), budget(), try_next_pairs=next_pairs)
    accepted = [swap["accepted"] for swap in history]
    assert accepted == ([False] if next_pairs == 0 else [False, True, False, True, *[False] * (1 + next_pairs)])


def test_a_plan_is_never_tried_twice_although_all_swaps_help(tmp_path):
    """Without a memory, the second swap could undo the first."""

    class AlwaysBetter(Verdicts):
        def score(self, plan, keep=False):
            self.answers.append(len(self.answers))
            return super().score(plan)

    verdicts = AlwaysBetter(0)
    search = replace(search_over(vit_adapter(1), tmp_path), evaluator=verdicts)
    plan, history = updated(search, budget(candidates=(2, 3, 4)), maximum_swaps=1000)
    keys = [candidate.key() for candidate in verdicts.plans]
    assert len(keys) == len(set(keys)) and 3 < len(history) < 1000
    assert plan.key() == keys[-1]


def test_tied_layers_move_together_and_pinned_ones_stay(tmp_path):
    search = search_over(vit_adapter(), tmp_path)
    target = replace(budget(), ties="modules", pins=(("blocks.1.*", 3),))
    verdicts = Verdicts(*range(40))
    _, history = updated(replace(search, evaluator=verdicts), target, maximum_swaps=30)
    assert len(history) > 2 and {swap["up"] for swap in history} <= {
        f"block {block} {module}" for block in (0, 2) for module in ("MSA", "MLP")
    }
    for plan in verdicts.plans:
        bits = plan.layer_bits()
        assert all(bits[f"blocks.{b}.attn.qkv"] == bits[f"blocks.{b}.attn.proj"] for b in range(3))
        assert all(bits[f"blocks.{b}.mlp.fc1"] == bits[f"blocks.{b}.mlp.fc2"] for b in range(3))
        assert {value for name, value in bits.items() if name.startswith("blocks.1.")} == {3}
        target.check_feasible(search.adapter.sites, plan)


@pytest.mark.parametrize("ratios", [expected_ratios(), None], ids=["expected", "measured"])
def test_a_groups_estimates_are_the_sums_of_its_layers(tmp_path, ratios):
    search = search_over(vit_adapter(), tmp_path)
    of_layers = estimates(search, ratios)
    target = replace(budget(), ties="blocks")
    _, (swap, *_) = updated(replace(search, evaluator=Verdicts(1, 0)), target, ratios=ratios)
    sums = [tuple(sum(of_layers[s.name][i] for s in search.layers if s.block == b) for i in (0, 1)) for b in range(3)]
    up, down = (int(swap[which].removeprefix("block ")) for which in ("up", "down"))
    assert (swap["gain"], swap["cost"]) == pytest.approx((sums[up][0], sums[down][1]), rel=1e-9)
    assert swap["gain"] - swap["cost"] == pytest.approx(
        max(sums[u][0] - sums[d][1] for u in range(3) for d in range(3) if u != d), rel=1e-9
    )


@pytest.mark.parametrize("most", [0, 1, 3])
def test_the_number_of_swaps_is_bounded(tmp_path, most):
    search = replace(search_over(vit_adapter(), tmp_path), evaluator=Verdicts(1, 2, 3, 4, 5, 6, 7, 8))
    plan, history = updated(search, budget(), maximum_swaps=most)
    assert len(history) == most and all(swap["accepted"] for swap in history)
    assert len(plan.layer_bits()) == 12


def estimates(search, ratios):
    """Gain and cost of each layer of the uniform plan at 3 bits, from the reconstruction errors themselves."""
    plan = budget().plan(search.adapter.sites, {site.name: 3 for site in search.layers})
    quantized = search.scored_model().apply(plan).adapter
    pictures = search.task.calibration_images
    if ratios is not None:
        errors = reconstruction_errors(quantized, search.adapter, search.layers, pictures)
        return {name: (error * (1 - 1 / ratios[4]), error * (ratios[3] - 1)) for name, (error,) in errors.items()}
    others = {
        s.name: [search.scored_from.site_module(plan.with_bits({s.name: Bits(b, b)}), s) for b in (4, 2)]
        for s in search.layers
    }
    errors = reconstruction_errors(quantized, search.adapter, search.layers, pictures, others)
    return {name: (at3 - at4, at2 - at3) for name, (at3, at4, at2) in errors.items()}


@pytest.mark.parametrize("ratios", [expected_ratios(), paper_ratios(), None], ids=["recomputed", "paper", "measured"])
def test_literal_swaps_take_the_best_and_the_cheapest_and_may_leave_the_budget(tmp_path, ratios):
    search = search_over(vit_adapter(), tmp_path)
    expected = estimates(search, ratios)
    verdicts = Verdicts(1, 2, 1)
    _, (swap, *_) = updated(
        replace(search, evaluator=verdicts), budget(), literal=True, ratios=ratios, try_next_pairs=4
    )
    up = max(expected, key=lambda name: expected[name][0])
    down = min((name for name in expected if name != up), key=lambda name: expected[name][1])
    assert (swap["up"], swap["down"]) == (up, down)
    assert (swap["gain"], swap["cost"]) == pytest.approx((expected[up][0], expected[down][1]), rel=1e-9)
    assert difference(verdicts.plans[0], verdicts.plans[1]) == {up: 1, down: -1}
    sizes = {site.name: site.parameters for site in search.layers}
    start = weight_bits(search, verdicts.plans[0])
    assert weight_bits(search, verdicts.plans[1]) == start + sizes[up] - sizes[down]


@pytest.mark.parametrize("ratios", [expected_ratios(), None], ids=["recomputed", "measured"])
def test_feasible_swaps_start_with_the_best_pair_that_fits(tmp_path, ratios):
    search = search_over(vit_adapter(), tmp_path)
    expected = estimates(search, ratios)
    _, (swap, *_) = updated(replace(search, evaluator=Verdicts(1, 0)), budget(), ratios=ratios)
    sizes = {site.name: site.parameters for site in search.layers}
    pairs = [(u, d) for u in sizes for d in sizes if u != d and sizes[u] <= sizes[d]]
    up, down = max(pairs, key=lambda pair: expected[pair[0]][0] - expected[pair[1]][1])
    assert (swap["up"], swap["down"]) == (up, down)


@pytest.mark.parametrize("ratios", [expected_ratios(), None], ids=["expected", "measured"])
def test_a_trained_methods_estimates_come_from_the_network_that_is_scored(tmp_path, ratios, monkeypatch):
    """One store for all: no estimate is taken for that of another network."""
    first = {}
    for kind in ("surrogate", "block_bank", "exact"):
        search = search_over(vit_adapter(2), tmp_path, base_quantizer=OneAfterAnother(kind))
        expected = estimates(search, ratios)
        if kind != "surrogate":
            monkeypatch.setattr(search.bank, "module", None)  # independent states are not asked for
        _, (swap, *_) = updated(replace(search, evaluator=Verdicts(1, 0)), budget(), ratios=ratios)
        first[kind] = swap["gain"], swap["cost"]
        assert first[kind] == pytest.approx((expected[swap["up"]][0], expected[swap["down"]][1]), rel=1e-9)
    # Equal bits at the target: a plan of blocks is the realised plan, its blocks at other bits are not.
    assert first["surrogate"] != first["exact"] and (first["block_bank"] == first["exact"]) == (ratios is not None)


def test_room_left_by_a_fractional_budget_is_never_overrun(tmp_path):
    search = search_over(vit_adapter(2), tmp_path)
    target = budget("3.1")
    verdicts = Verdicts(*range(40))
    updated(replace(search, evaluator=verdicts), target, maximum_swaps=30)
    total = target.total([site.parameters for site in search.layers])
    spent = [weight_bits(search, plan) for plan in verdicts.plans]
    assert max(spent) <= total and any(b > a for a, b in pairwise(spent)), "the room was never used"


def test_additions_fill_the_room_that_is_left(tmp_path):
    search, target = search_over(vit_adapter(2), tmp_path), budget("3.1")
    plan, (swap, *_) = updated(replace(search, evaluator=Verdicts(1, 2, 1)), target, additions=True)
    assert swap["down"] is None and swap["cost"] == 0 and swap["gain"] > 0 and swap["accepted"]
    assert plan.layer_bits()[swap["up"]] == 4 and sorted(plan.layer_bits().values()) == [3] * 7 + [4]
    _, (without, *_) = updated(replace(search, evaluator=Verdicts(1, 2, 1)), target)
    assert without["down"] is not None


@pytest.mark.parametrize(
    ("accept", "factor", "accepted"),
    [
        ("accuracy", 1.0, [True]),
        ("loss", 1.0, [False, True]),
        ("paired", 1.0, [False, False]),
        ("paired", 0.2, [False, True]),
    ],
)
def test_the_rule_decides_which_plan_is_kept(tmp_path, accept, factor, accepted):
    """The first swap gets one more image right, at a higher loss. The second gets one less right, and the loss falls by
    a quarter of its standard error."""
    answers = [([1.0, 1.0, 1.0], [1, 0, 1]), ([2.0, 2.0, 2.0], [1, 1, 1]), ([0.4, 1.2, 1.2], [1, 0, 0])]

    class Given(Verdicts):
        def score(self, plan, keep=False):
            self.plans.append(plan)
            loss, correct = answers[len(self.plans) - 1]
            return Score(torch.tensor(loss, dtype=torch.float64), torch.tensor(correct, dtype=torch.float64))

    search = replace(search_over(vit_adapter(), tmp_path), evaluator=Given())
    options = {"try_next_pairs": 1, "maximum_swaps": 1, "max_evaluations": 2}
    plan, history = updated(search, budget(), accept=accept, accept_factor=factor, **options)
    assert [swap["accepted"] for swap in history] == accepted
    tried = search.evaluator.plans
    assert plan.key() == (tried[len(accepted)] if any(accepted) else tried[0]).key()


def test_a_plan_that_is_given_up_is_refused_and_says_after_how_many_images(tmp_path):
    search = search_over(vit_adapter(), tmp_path, sample_images=160)
    _, whole = updated(search, budget(), try_next_pairs=6)
    _, early = updated(search, budget(), try_next_pairs=6, stop_early=1.0)
    assert {swap["images"] for swap in whole} == {160} and {swap["images"] for swap in early} > {160}
    assert not any(swap["accepted"] for swap in early if swap["images"] < 160)
    for one, other in zip(whole, early, strict=False):
        assert (one["up"], one["down"]) == (other["up"], other["down"])
        if other["images"] == 160:
            assert one == other
        elif one["accepted"]:
            break  # from here on the two go their own ways


def test_a_model_without_any_possible_swap_stays_as_it_is(tmp_path):
    search = replace(search_over(vit_adapter(1), tmp_path), evaluator=Verdicts(1))
    plan, history = updated(search, budget(candidates=(3,)))
    assert history == [] and set(plan.layer_bits().values()) == {3}
