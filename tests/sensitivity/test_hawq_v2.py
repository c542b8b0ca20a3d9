"""HAWQ-V2: Omega from traces and weight errors, the exact optimum, warnings about noise, what each option changes."""

import json
import math

import pytest
import torch

from lampq.allocation.least_score import LeastScore
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.errors import LampQError
from lampq.sensitivity.hawq_v2 import HAWQV2, warn_of_noise
from lampq.sensitivity.hessian_trace import Hessian, hessian_traces
from lampq.sensitivity.labels import labels_of
from lampq.sensitivity.weight_error import WeightError
from tests.allocation.budgets import budget
from tests.small_models import search_over, swin_adapter, vit_adapter

FEW = {"hessian_images": 16, "probes": 4}


@pytest.mark.parametrize("build", [vit_adapter, swin_adapter], ids=["vit", "swin"])
def test_omega_is_the_mean_trace_times_the_weights_error(build, tmp_path):
    search = search_over(build(), tmp_path)
    plan = LeastScore("hawq_v2", **FEW).allocate(search, budget())
    names = [s.name for s in search.layers]
    images, labels = search.task.sample_images[:16], search.task.sample_labels[:16]
    found = hessian_traces(search.adapter.network, names, images, labels, probes=4, seed=0)
    assert plan.origin["hessian_traces"] == dict(zip(names, found.trace.tolist(), strict=True))
    assert plan.origin["standard_errors"] == dict(zip(names, found.standard_error.tolist(), strict=True))
    distances = WeightError().scores(search, budget())
    for site in search.layers:
        mean_trace = max(0.0, plan.origin["hessian_traces"][site.name]) / site.parameters
        for bits in (2, 3, 4, 5):
            expected = mean_trace * distances[site.name][bits]
            assert plan.origin["scores"][site.name][str(bits)] == pytest.approx(expected, rel=1e-12)
        assert plan[site.name].score == plan.origin["scores"][site.name]["3"]
    assert plan.origin["negative_traces"] == (found.trace < 0).sum()
    assert search.evaluator.scored == 0, "no plan is tried"
    assert json.loads(json.dumps(plan.origin)) == plan.origin


def test_no_single_exchange_lowers_omega(search):
    plan = LeastScore("hawq_v2", **FEW).allocate(search, budget())
    scores, limit = plan.origin["scores"], budget().total([s.parameters for s in search.layers])

    def omega(bits):
        return math.fsum(scores[name][str(b)] for name, b in bits.items())

    assert plan.origin["objective"] == pytest.approx(omega(plan.layer_bits()), rel=1e-9)
    compared = 0
    for up in search.layers:
        for down in search.layers:
            bits = dict(plan.layer_bits())
            bits[up.name] += 1
            bits[down.name] -= 1
            inside = sum(s.parameters * bits[s.name] for s in search.layers) <= limit
            if up is not down and inside and set(bits.values()) <= {2, 3, 4, 5}:
                compared += 1
                assert omega(bits) >= plan.origin["objective"] * (1 - 1e-6)
    assert compared > 5 and len(set(plan.layer_bits().values())) > 1


def test_every_option_changes_the_traces(search):
    usual = LeastScore("hawq_v2", **FEW).allocate(search, budget())
    for option in ({"hessian_images": 8}, {"probes": 5}, {"labels": "sampled"}):
        other = LeastScore("hawq_v2", **{**FEW, **option})
        traces = other.allocate(search, budget()).origin["hessian_traces"]
        assert all(traces[name] != usual.origin["hessian_traces"][name] for name in traces), option
        assert other.settings() != LeastScore("hawq_v2", **FEW).settings()


def test_sampled_labels_are_the_models(search):
    plan = LeastScore("hawq_v2", **FEW, labels="sampled").allocate(search, budget())
    names, labels = [s.name for s in search.layers], labels_of(search, "sampled")[:16]
    images = search.task.sample_images[:16]
    found = hessian_traces(search.adapter.network, names, images, labels, probes=4, seed=0)
    assert list(plan.origin["hessian_traces"].values()) == found.trace.tolist()


def test_where_d_has_fewer_images_all_are_taken(tmp_path):
    few = search_over(vit_adapter(), tmp_path / "few", sample_images=16, calibration_images=16)
    found = Hessian(hessian_images=500, probes=3).estimated(few).samples
    assert torch.equal(found, Hessian(hessian_images=16, probes=3).estimated(few).samples)


def test_traces_are_shared_by_budgets_and_base_quantizers(store):
    class Other(RoundToNearest):
        revision = 99

    LeastScore("hawq_v2", **FEW).allocate(search_over(vit_adapter(), store), budget())
    for target, method in ((2.5, RoundToNearest()), (3, Other())):
        again = search_over(vit_adapter(), store, base_quantizer=method)
        LeastScore("hawq_v2", **FEW).allocate(again, budget(target))
        assert "hessian_traces" not in again.store.seconds_computed and again.task.dataset.reads["sample"] == 0


def test_a_negative_trace_counts_as_zero_and_is_told(store, caplog, monkeypatch):
    search = search_over(vit_adapter(), store)
    metric = HAWQV2(**FEW)
    found = metric.estimated(search)
    spoilt = found.samples.clone()
    spoilt[:, 2] = torch.tensor([-3.0, -3.1, -3.2, -3.1])
    monkeypatch.setattr(metric, "estimated", lambda _: type(found)(spoilt))
    with caplog.at_level("WARNING", "lampq"):
        plan = LeastScore(metric).allocate(search, budget())
    name = search.layers[2].name
    assert set(plan.origin["scores"][name].values()) == {0.0}
    assert plan.origin["hessian_traces"][name] == pytest.approx(-3.1)
    negative = plan.origin["negative_traces"]
    assert negative >= 1 and f"{negative} of 12 Hessian traces are negative and count as zero" in caplog.text


def test_noise_is_warned_of(caplog):
    with caplog.at_level("WARNING", "lampq"):
        warn_of_noise({"a": 2.0, "b": -2.0}, {"a": 1.9, "b": 1.0})
    assert "standard error" not in caplog.text and "1 of 2 Hessian traces are negative" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING", "lampq"):
        warn_of_noise({"a": 2.0, "b": 1.0}, {"a": 1.9, "b": 1.1})
    assert "1 of 2 Hessian traces are within their standard error (b, ...): raise allocator.probes" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING", "lampq"):
        warn_of_noise({"a": 2.0}, {"a": 0.1})
    assert not caplog.text


@pytest.mark.parametrize("target", ["2", "2.5", "5"])
def test_fractional_and_extreme_budgets(store, target):
    search = search_over(swin_adapter(), store)
    plan = LeastScore("hawq_v2", **FEW).allocate(search, budget(target))
    budget(target).check_feasible(search.adapter.sites, plan)
    if target in ("2", "5"):
        assert set(plan.layer_bits().values()) == {int(target)}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"hessian_images": 0}, "allocator.hessian_images=0: must be an integer of at least 1"),
        ({"probes": 1}, "allocator.probes=1: must be an integer of at least 2"),
        ({"probes": 2.5}, "allocator.probes=2.5: must be an integer of at least 2"),
        ({"labels": "own"}, "allocator.labels=own: must be one of dataset, sampled"),
    ],
)
def test_wrong_values_are_one_line(options, line):
    with pytest.raises(LampQError) as caught:
        HAWQV2(**options)
    assert line in str(caught.value)
