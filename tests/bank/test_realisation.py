"""Plans of a sequential method: segment by segment, each one once, shared as far as plans agree, and after a kill."""

import json
import logging

import pytest
import torch

import lampq.bank.realisation
from lampq.allocation.lampq import LampQ
from lampq.allocation.uniform import Uniform
from lampq.bank.quantized_model import QuantizedModel
from lampq.base_quantizers.base import SEARCHES
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.errors import LampQError
from lampq.pipeline import run
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from tests.small_models import BUDGET, distilled_adapter, images, search_over, swin_adapter, vit_adapter
from tests.small_settings import small_settings


class OneAfterAnother(RoundToNearest):
    """Round to nearest, each site on what the sites before it feed it."""

    name = "one_after_another"
    sequential = True
    training_images = 6

    def __init__(self, search="surrogate", killed_at=None):
        self.search, self.killed_at, self.realised = search, killed_at, []

    @property
    def independent(self):
        return RoundToNearest()

    def realise_segment(self, segment):
        if segment.index == self.killed_at:
            raise KeyboardInterrupt
        self.realised.append(segment.index)
        self.segment = segment
        states = {}
        for site, bits in segment.sites:
            layer = segment.full_precision.module(site.name)
            states[site.name] = self.calibrate(site, layer, segment.observe(site.name), bits)
            segment.place(site.name, states[site.name])
        return states


def uniform(search, bits=3):
    return BUDGET.plan(search.adapter.sites, {site.name: bits for site in search.layers})


def search_with(method, root, build=vit_adapter):
    return search_over(build(), root, base_quantizer=method)


def by_hand(adapter, plan, pictures):
    """The same, site by site, with the whole network run for every site."""
    quantized = adapter.clone()
    method = RoundToNearest()
    for site, planned in zip(adapter.sites, plan.sites, strict=True):
        seen = []
        hook = quantized.module(site.name).register_forward_pre_hook(
            lambda _, operands, seen=seen: seen.append(operands)
        )
        with torch.no_grad():
            quantized.run(pictures)
        hook.remove()
        layer = adapter.module(site.name)
        state = method.calibrate(site, layer, seen[0], planned.bits)
        quantized.replace_module(site.name, method.quantized_module(site, layer, state, planned.bits))
    return quantized


@pytest.mark.parametrize("build", [vit_adapter, distilled_adapter, swin_adapter])
def test_every_site_sees_what_the_sites_before_it_make_of_the_images(tmp_path, build):
    search = search_with(OneAfterAnother(), tmp_path, build)
    plan, pictures = uniform(search), search.task.training_images(6)
    quantized = search.quantized_model().apply(plan)
    others = images(search.adapter, 5, seed=7)
    with torch.inference_mode():
        expected = by_hand(search.adapter, plan, pictures).run(others)
        torch.testing.assert_close(quantized.adapter.run(others), expected, rtol=0, atol=1e-4)
        independent = QuantizedModel(search.adapter, search.bank).apply(plan).adapter.run(others)
    assert (independent - expected).abs().max() > 1e-2


def test_a_segment_is_given_both_networks(tmp_path, monkeypatch):
    monkeypatch.setattr(lampq.bank.realisation, "CHUNK", 4)
    method = OneAfterAnother()
    search = search_with(method, tmp_path)
    plan, pictures = uniform(search), search.task.training_images(6)
    quantized = search.quantized_model().apply(plan).adapter
    seen = method.segment
    assert seen.index == quantized.segments - 1 == method.realised[-1]
    assert [site.name for site, *_ in seen.sites] == ["head"] and seen.sites[0][1] == (3, 3)
    with torch.inference_mode():
        inputs = [adapter.run(pictures, 0, seen.index) for adapter in (quantized, search.adapter)]
        ends = [quantized.module("head"), search.adapter.module("head")]
    torch.testing.assert_close(seen.inputs, inputs[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(seen.full_precision_inputs, inputs[1], rtol=0, atol=1e-5)
    assert seen.full_precision is search.adapter
    assert len(seen.observe("head", images=2)[0]) == 2
    of_full_precision = seen.observe("head", full_precision=True)[0]
    assert (of_full_precision - seen.observe("head")[0]).abs().max() > 1e-3
    assert type(ends[1]) is torch.nn.Linear and type(ends[0]) is not torch.nn.Linear
    assert seen.independent_states()["head"].keys() == search.bank.entry(search.adapter.site("head"), Bits(3, 3)).keys()
    assert not seen.inputs.requires_grad and not seen.inputs.is_inference()


def test_an_interrupted_realisation_goes_on_at_the_first_missing_segment(tmp_path):
    search = search_with(OneAfterAnother(killed_at=3), tmp_path)
    plan = uniform(search)
    with pytest.raises(KeyboardInterrupt):
        search.realisation.states(plan)
    assert search.bank.base_quantizer.realised == [0, 1, 2]
    again = search_with(OneAfterAnother(), tmp_path)
    states = again.realisation.states(plan)
    assert again.bank.base_quantizer.realised == [3, 4]
    expected = search_with(OneAfterAnother(), tmp_path / "other").realisation.states(plan)
    assert states.keys() == expected.keys() == {site.name for site in search.adapter.sites}
    for name, state in states.items():
        assert state.keys() == expected[name].keys()
        assert all(torch.equal(state[key], expected[name][key]) for key in state), name
    third = search_with(OneAfterAnother(), tmp_path)
    third.realisation.states(plan)
    assert third.bank.base_quantizer.realised == [] and third.task.dataset.reads["calibration"] == 0


def test_plans_share_what_lies_before_their_first_difference(tmp_path):
    method = OneAfterAnother()
    search = search_with(method, tmp_path)
    plan = uniform(search)
    other = plan.with_bits({"blocks.1.mlp.fc1": (4, 4)})
    states = search.realisation.states(plan)
    method.realised.clear()
    changed = search.realisation.states(other)
    assert method.realised == [2, 3, 4]
    assert torch.equal(states["blocks.0.mlp.fc2"]["input_scale"], changed["blocks.0.mlp.fc2"]["input_scale"])
    assert not torch.equal(states["blocks.2.mlp.fc2"]["input_scale"], changed["blocks.2.mlp.fc2"]["input_scale"])


def test_what_has_no_bits_is_left_alone(tmp_path):
    method = OneAfterAnother()
    search = search_with(method, tmp_path)
    full_precision = BitPlan.full_precision(search.adapter.sites)
    assert search.realisation.states(full_precision) == {} and search.realisation.modules(full_precision) == {}
    plan = full_precision.with_bits({"blocks.1.attn.qkv": (2, 2)})
    assert search.realisation.states(plan).keys() == search.realisation.modules(plan).keys() == {"blocks.1.attn.qkv"}
    assert method.realised == [2]


def test_the_model_goes_from_plan_to_plan(tmp_path):
    search = search_with(OneAfterAnother(), tmp_path)
    quantized = search.quantized_model()
    pictures, plan = images(search.adapter, 3), uniform(search)
    full_precision = BitPlan.full_precision(search.adapter.sites)
    expected = search.adapter.run(pictures)
    first = quantized.apply(plan).adapter.run(pictures)
    changed = quantized.apply(plan.with_bits({"blocks.0.mlp.fc1": (8, 8)})).adapter.run(pictures)
    assert torch.equal(quantized.apply(full_precision).adapter.run(pictures), expected)
    assert torch.equal(quantized.apply(plan).adapter.run(pictures), first)
    assert not torch.equal(first, changed) and not torch.equal(first, expected)
    assert torch.equal(search.adapter.run(pictures), expected)


@pytest.mark.parametrize("search_by", ["surrogate", "exact"])
def test_a_search_is_on_the_surrogate_or_exact(tmp_path, search_by):
    method = OneAfterAnother(search_by)
    search = search_with(method, tmp_path)
    plan = uniform(search)
    score = search.evaluator.score(plan)
    assert bool(method.realised) == (search_by == "exact")
    realisation = search.realisation if search_by == "exact" else None
    model = QuantizedModel(search.adapter, search.bank, realisation).apply(plan)
    with torch.inference_mode():
        logits = model.adapter.run(search.task.sample_images)
    expected = search.task.outcome(logits, search.task.sample_labels)
    torch.testing.assert_close(score.loss, expected["loss"], rtol=0, atol=1e-4)


def test_scores_of_the_surrogate_are_those_of_the_independent_method(tmp_path):
    """Its bank and its scores are read, not computed a second time."""
    first = search_over(vit_adapter(), tmp_path)
    score = first.evaluator.score(uniform(first))
    second = search_with(OneAfterAnother(), tmp_path)
    assert torch.equal(second.evaluator.score(uniform(second)).loss, score.loss)
    assert second.evaluator.evaluations == 0 and second.bank.identity == first.bank.identity
    exact = search_with(OneAfterAnother("exact"), tmp_path)
    assert not torch.equal(exact.evaluator.score(uniform(exact)).loss, score.loss)


def test_a_search_from_inference_mode_can_still_take_gradients(tmp_path):
    class Trained(OneAfterAnother):
        training_images = None

        def realise_segment(self, segment):
            weight = torch.nn.Parameter(segment.full_precision.module(segment.sites[0][0].name).weight.clone())
            x = segment.observe(segment.sites[0][0].name)[0]
            (x.sum() * weight.sum()).backward()
            assert weight.grad is not None
            return super().realise_segment(segment)

    search = search_with(Trained("exact"), tmp_path)
    with torch.inference_mode():
        assert search.task.calibration_images.is_inference()
        search.evaluator.score(uniform(search))


def test_bits_at_which_it_is_not_defined_are_refused_before_any_work(tmp_path):
    method = OneAfterAnother()
    search = search_with(method, tmp_path)
    with pytest.raises(LampQError, match="17 bits"):
        search.realisation.states(uniform(search).with_bits({"head": (17, 3)}))
    assert method.realised == []


def test_progress_counts_the_steps_of_missing_segments(tmp_path, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, *, description, total, unit):
            self.total, self.n = total, 0
            bars.append(self)

        def update(self, count=1):
            self.n += count

        def close(self):
            pass

    class InSteps(OneAfterAnother):
        realisation_steps = 10

        def realise_segment(self, segment):
            segment.step(7)
            return super().realise_segment(segment)

    monkeypatch.setattr(lampq.bank.realisation, "progress", Bar)
    search = search_with(InSteps(), tmp_path)
    plan = uniform(search)
    search.realisation.states(plan)
    search.realisation.states(plan.with_bits({"blocks.2.mlp.fc1": (4, 4)}))
    search.realisation.states(plan)
    assert [(bar.total, bar.n) for bar in bars] == [(50, 50), (20, 20)]


def test_the_number_of_images_and_the_seed_are_part_of_the_identity(tmp_path):
    def identity(**changes):
        method = OneAfterAnother()
        method.training_images = changes.get("images", 6)
        return search_over(
            vit_adapter(), tmp_path, base_quantizer=method, seed=changes.get("seed", 0)
        ).realisation.identity

    assert identity() == identity()
    assert identity() != identity(images=5) != identity(images=None) and identity() != identity(seed=1)


def whole_run(tmp_path, method, allocator=None, **changes):
    changes.setdefault("allocator", allocator or LampQ(try_next_pairs=0))
    return run(small_settings(tmp_path, base_quantizer=method, budget=BUDGET, **changes))[-1]


@pytest.mark.parametrize("search_by", SEARCHES)
def test_a_run_says_what_its_search_was_on_and_measures_what_is_realised(tmp_path, monkeypatch, caplog, search_by):
    caplog.set_level(logging.INFO, "lampq")
    monkeypatch.setattr("lampq.report.run_figure.draw_bit_allocation", lambda plan, path, costs: path.touch())
    record = whole_run(tmp_path, OneAfterAnother(search_by))
    assert record.metrics["search"] == record.identity["search"] == search_by
    said = {
        "surrogate": "the surrogate of what is built in the end",
        "block_bank": "blocks realised by one_after_another at equal bits",
        "exact": "every plan that is scored is realised",
    }[search_by]
    assert (record.plan.origin["scored_with"], record.plan.origin["judged"]) == (search_by, "top1")
    assert said in (record.folder / "log.txt").read_text()
    assert json.loads((record.folder / "images.json").read_text())["training"] == [f"0/{i}" for i in range(6)]
    search = search_with(OneAfterAnother(search_by), tmp_path / "other")
    model = search.quantized_model().apply(record.plan).adapter
    with torch.inference_mode():
        right = [(model.run(x).argmax(1) == y).double() for x, y in search.task.validation()]
    assert record.metrics["top1"] == pytest.approx(100 * torch.cat(right).mean().item())
    score = search.evaluator.score(record.plan)
    assert record.metrics["sample_loss"] == pytest.approx(score.mean_loss, rel=1e-5)
    stored = search.realisation.quantizer_parameters(record.plan)
    assert stored == sum(v.numel() for state in search.realisation.states(record.plan).values() for v in state.values())


def test_fingerprints_of_independent_methods_and_of_runs_without_a_search_do_not_know_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("lampq.report.run_figure.draw_bit_allocation", lambda plan, path, costs: path.touch())
    record = whole_run(tmp_path, RoundToNearest(), Uniform())
    assert "search" not in record.identity and "search" not in record.metrics
    assert "training" not in record.identity["images"]
    one, other = (whole_run(tmp_path, OneAfterAnother(s), Uniform()) for s in ("surrogate", "exact"))
    assert one.fingerprint == other.fingerprint and one.identity["images"]["training"]["images"] == 6
