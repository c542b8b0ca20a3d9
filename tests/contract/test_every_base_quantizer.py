"""What every base quantizer of conf/base_quantizer keeps to, new ones included."""

import copy
import functools
import json
import tempfile
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load, save

from lampq.bank.quantized_model import QuantizedModel
from lampq.base_quantizers.base import SEARCHES, BaseQuantizer
from lampq.calibration.observation import Observer
from lampq.configuration.settings import construct, resolved
from lampq.errors import LampQError
from lampq.launch.command_line import config_folder
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from tests.small_models import images, search_over, swin_adapter, vit_adapter

NAMES = sorted(path.stem for path in (config_folder() / "base_quantizer").glob("*.yaml"))
MODELS = {"vit": lambda: vit_adapter(1), "swin": swin_adapter}
SITES = [("vit", f"blocks.0.{part}") for part in ("attn.qkv", "attn.qk", "attn.pv", "mlp.fc2")]
"""Fed by a LayerNorm (as fc1 is), by two operands, by a softmax, by a GELU."""
ALL_SITES = [*SITES, *(("vit", name) for name in ("patch_embed.proj", "blocks.0.attn.proj", "head"))]
ALL_SITES.append(("swin", "layers.1.downsample.reduction"))
SHORT = ("effort=smoke",)
"""What is tested here holds however long a search is."""
QUICK = (*SHORT, "effort.block_iterations=3", "effort.block_images=6", "effort.rounding_rate=0.05")
QUICK = (*QUICK, "effort.straight_through_iterations=3")
FEWER_CANDIDATES = {"apq_like": 8}
"""Of a search in which each one is a run of the whole block."""


@functools.cache
def composed(*effort):
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        return hydra.compose("config", overrides=list(effort))


@functools.cache
def quantizer(name, *effort):
    cfg = copy.deepcopy(composed(*(effort or SHORT)))
    cfg.base_quantizer = OmegaConf.load(config_folder() / "base_quantizer" / f"{name}.yaml")
    if isinstance(cfg.base_quantizer.get("candidates"), int):  # some have a number of their own
        cfg.base_quantizer.candidates = FEWER_CANDIDATES.get(name, 32)
    return construct("base_quantizer", resolved(cfg)["base_quantizer"])


def with_own_states():
    """Methods whose independent states no other one has found before: entries are tested once."""
    found, length = {}, ("candidates", "rounds", "steps")
    for name in NAMES:
        independent = quantizer(name).independent
        settings = {key: value for key, value in independent.settings().items() if key not in length}
        found.setdefault(json.dumps([independent.name, settings]), name)
    return sorted(found.values())


@functools.cache
def observed(model):
    """A small model, and what its sites are fed on three images."""
    adapter = MODELS[model]()
    observer = Observer(adapter, lambda: images(adapter, 3))
    return adapter, {site.name: observer.inputs(site) for site in adapter.sites}


@functools.cache
def entry(name, model, site_name, weight_bits, activation_bits):
    adapter, inputs = observed(model)
    site, layer = adapter.site(site_name), adapter.module(site_name)
    return quantizer(name).calibrate(site, layer, inputs[site_name], Bits(weight_bits, activation_bits))


def module(name, model, site_name, weight_bits, activation_bits, state=None):
    adapter, _ = observed(model)
    state = entry(name, model, site_name, weight_bits, activation_bits) if state is None else state
    arguments = (adapter.site(site_name), adapter.module(site_name), state, Bits(weight_bits, activation_bits))
    return quantizer(name).quantized_module(*arguments).eval()


def defined(name, *bits):
    """The given bits that the method is defined at."""
    return [b for b in bits if quantizer(name).minimum_bits <= b <= quantizer(name).maximum_bits]


@torch.inference_mode()
def error(name, model, site_name, weight_bits, activation_bits):
    """Mean squared error of the site's output, as a fraction of the output's mean square; outputs are checked."""
    adapter, inputs = observed(model)
    expected = adapter.module(site_name)(*inputs[site_name])
    output = module(name, model, site_name, weight_bits, activation_bits)(*inputs[site_name])
    assert output.shape == expected.shape and output.dtype == expected.dtype and output.isfinite().all()
    return ((output - expected).square().mean() / expected.square().mean()).item()


@pytest.fixture(params=with_own_states())
def name(request):
    return request.param


@pytest.fixture(params=NAMES)
def any_name(request):
    return request.param


@pytest.fixture(params=[name for name in NAMES if quantizer(name).sequential])
def sequential(request):
    return request.param


def test_it_says_what_it_is(any_name):
    method = quantizer(any_name)
    assert isinstance(method, BaseQuantizer) and any_name.startswith(method.name)
    assert isinstance(method.independent, BaseQuantizer) and method.search in SEARCHES
    assert isinstance(method.revision, int) and method.revision >= 1 and isinstance(method.sequential, bool)
    assert 1 <= method.minimum_bits <= method.maximum_bits <= 16
    assert json.loads(json.dumps(method.settings())) == method.settings()


def test_the_error_falls_with_bits(name):
    """At the bits that are searched over; formats with an error of their own keep it at many bits."""
    for model, site in ALL_SITES:
        errors = [error(name, model, site, bits, bits) for bits in defined(name, 2, 3, 4, 8)]
        assert errors == sorted(errors, reverse=True) and len(set(errors)) == len(errors), site
        assert errors[-1] < 0.01 and errors[0] > 1e-3, site


def test_the_same_images_give_the_same_entry_and_nothing_is_changed(name):
    for model, site in SITES:
        adapter, inputs = observed(model)
        before = [tensor.clone() for tensor in inputs[site]], adapter.weights_hash()
        bits = defined(name, 4, 8)[0]
        first = entry(name, model, site, bits, bits)
        layer = adapter.module(site)
        again = quantizer(name).calibrate(adapter.site(site), layer, inputs[site], Bits(bits, bits))
        assert first.keys() == again.keys() and all(torch.equal(first[key], again[key]) for key in first), site
        module(name, model, site, bits, bits)
        assert adapter.weights_hash() == before[1] and adapter.module(site) is layer, site
        assert all(torch.equal(a, b) for a, b in zip(inputs[site], before[0], strict=True)), site


def test_an_entry_is_small_finite_and_survives_the_disk(name):
    for model, site in ALL_SITES:
        adapter, inputs = observed(model)
        bits = defined(name, 4, 8)[0]
        state = entry(name, model, site, bits, bits)
        assert state and all(isinstance(key, str) and value.isfinite().all() for key, value in state.items()), site
        count = sum(value.numel() for value in state.values())
        stored = quantizer(name).stored_parameters(state)
        assert 0 < stored <= count, site
        if not adapter.site(site).is_matmul:
            weights = adapter.module(site).weight.numel()
            assert stored < weights and (count < weights or quantizer(name).stores_weights), f"{site}: never weights"
        loaded = load(save({key: value.clone().contiguous() for key, value in state.items()}))
        with torch.inference_mode():
            mine = module(name, model, site, bits, bits)(*inputs[site])
            theirs = module(name, model, site, bits, bits, state=loaded)(*inputs[site])
        assert torch.equal(mine, theirs), site


def test_weights_have_as_many_values_as_their_bits_allow(name):
    for model, site in ALL_SITES:
        if observed(model)[0].site(site).is_matmul:
            continue
        bits = defined(name, 4, 8)[0]
        rows = module(name, model, site, bits, bits).weight.flatten(1)
        formats = max(1, entry(name, model, site, bits, bits)["weight_scale"].numel() // len(rows))
        assert max(len(row.unique()) for row in rows) <= formats * 2**bits, site


def test_each_operand_may_stay_in_full_precision(name):
    for model, site in ALL_SITES:
        adapter, inputs = observed(model)
        bits = defined(name, 4, 8)[0]
        with torch.inference_mode():
            expected = adapter.module(site)(*inputs[site])
            untouched = module(name, model, site, None, None)(*inputs[site])
        assert torch.equal(untouched, expected), site
        weights_only, inputs_only = error(name, model, site, bits, None), error(name, model, site, None, bits)
        assert weights_only < 0.05 and inputs_only < 0.05, site
        assert (weights_only > 0) != adapter.site(site).is_matmul, site
        image = adapter.site(site).type == "patch_embed"
        assert inputs_only > 0 or (image and quantizer(name).image_bits is None), f"{site}: only an image may stay"


def test_it_works_at_the_limits_it_claims(name):
    for model, site in SITES:
        method = quantizer(name)
        lowest, highest = method.minimum_bits, method.maximum_bits
        middle = error(name, model, site, *[min(4, highest)] * 2)
        assert middle < error(name, model, site, lowest, lowest) < 5, site
        assert error(name, model, site, highest, highest) < 0.05, site


def test_an_image_does_not_depend_on_the_images_beside_it(name):
    for model, site in SITES:
        _, inputs = observed(model)
        bits = defined(name, 4, 8)[0]
        quantized = module(name, model, site, bits, bits)
        with torch.inference_mode():
            alone, together = quantized(*(x[:1] for x in inputs[site])), quantized(*inputs[site])
        assert (alone - together[:1]).abs().max() <= 1e-5, site


def test_what_is_not_finite_is_refused_by_name(name):
    for model, site in SITES:
        adapter, inputs = observed(model)
        for value in (float("nan"), float("inf")):
            spoiled = tuple(x.clone() for x in inputs[site])
            spoiled[0].view(-1)[3] = value
            with pytest.raises(LampQError, match=site):
                quantizer(name).calibrate(adapter.site(site), adapter.module(site), spoiled, Bits(4, 4))


def test_inputs_of_zeros_are_no_reason_to_fail(name):
    """A dead layer must not spoil the model: its output stays what it was, up to the rounding of the bias' inputs."""
    for model, site in SITES:
        adapter, inputs = observed(model)
        zeros = tuple(torch.zeros_like(x) for x in inputs[site])
        bits = defined(name, 4, 8)[0]
        state = quantizer(name).calibrate(adapter.site(site), adapter.module(site), zeros, Bits(bits, bits))
        assert all(value.isfinite().all() for value in state.values()), site
        with torch.inference_mode():
            output = module(name, model, site, bits, bits, state=state)(*zeros)
            expected = adapter.module(site)(*zeros)
        assert output.isfinite().all() and (output - expected).abs().max() <= 0.2, site


@pytest.mark.parametrize("model", ["vit", pytest.param("swin", marks=pytest.mark.slow)])
def test_a_whole_model_follows_a_plan(name, model, tmp_path):
    search = search_over(MODELS[model](), tmp_path, base_quantizer=quantizer(name), calibration_images=3)
    quantized = QuantizedModel(search.adapter, search.bank)
    pictures = images(search.adapter, 6, seed=5)
    with torch.inference_mode():
        expected = search.adapter.run(pictures)
        distances = []
        for bits in defined(name, 2, 4):
            rules = Budget(bits, bits, (bits,), "fixed", (bits, bits), "target")
            plan = rules.plan(search.adapter.sites, {site.name: bits for site in search.layers})
            search.bank.calibrate(plan)
            logits = quantized.apply(plan).adapter.run(pictures)
            assert logits.isfinite().all()
            distances.append((logits - expected).square().mean().item())
        assert distances == sorted(distances, reverse=True)
        assert distances[-1] < 0.5 * expected.var().item()
        back = quantized.apply(BitPlan.full_precision(search.adapter.sites)).adapter.run(pictures)
    assert torch.equal(back, expected)


def realised(name, root, model="vit", bits=4, **changes):
    """A search with a shortened method, a plan of equal bits, and the states of the whole plan."""
    search = search_over(MODELS[model](), root, base_quantizer=quantizer(name, *QUICK), calibration_images=3, **changes)
    rules = Budget(bits, bits, (bits,), "fixed", (bits, bits), "target")
    plan = rules.plan(search.adapter.sites, {site.name: bits for site in search.layers})
    return search, plan, search.realisation.states(plan)


@functools.cache
def realised_once(name):
    return realised(name, Path(tempfile.mkdtemp(dir=_folder.name)))


_folder = tempfile.TemporaryDirectory(prefix="lampq-realised-")


def the_same(one, other):
    return one.keys() == other.keys() and all(
        one[site].keys() == other[site].keys() and all(torch.equal(one[site][k], other[site][k]) for k in one[site])
        for site in one
    )


def test_what_is_realised_is_determined_by_seed_and_images(sequential, tmp_path):
    """On any number of threads; every site of the plan has a state."""
    search, _, states = realised_once(sequential)
    assert states.keys() == {site.name for site in search.adapter.sites}
    assert all(value.isfinite().all() for state in states.values() for value in state.values())
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        assert the_same(realised(sequential, tmp_path / "again")[2], states)
    finally:
        torch.set_num_threads(threads)
    assert not the_same(realised(sequential, tmp_path / "other", seed=1)[2], states)


def test_what_is_realised_survives_the_disk(sequential):
    """Another process reads every bit of it, and computes nothing."""
    search, plan, states = realised_once(sequential)
    again, _, read = realised(sequential, search.store.root)
    assert the_same(read, states) and "realisation" not in again.store.seconds_computed
    pictures = images(search.adapter, 4, seed=5)
    with torch.inference_mode():
        models = [s.quantized_model().apply(plan).adapter for s in (search, again)]
        assert torch.equal(*(model.run(pictures) for model in models))


def test_a_realised_model_follows_plans_and_leaves_the_original(sequential):
    search, plan, _ = realised_once(sequential)
    quantized = search.quantized_model()
    pictures, before = images(search.adapter, 6, seed=5), search.adapter.weights_hash()
    full_precision = BitPlan.full_precision(search.adapter.sites)
    with torch.inference_mode():
        expected = search.adapter.run(pictures)
        assert torch.equal(quantized.apply(full_precision).adapter.run(pictures), expected)
        logits = quantized.apply(plan).adapter.run(pictures)
        alone = torch.cat([quantized.adapter.run(picture[None]) for picture in pictures])
        assert torch.equal(quantized.apply(full_precision).adapter.run(pictures), expected)
        assert torch.equal(search.adapter.run(pictures), expected)
    assert search.adapter.weights_hash() == before
    assert 0 < (logits - expected).square().mean() < expected.var()
    torch.testing.assert_close(alone, logits, rtol=0, atol=1e-4)
    assert 0 < search.realisation.quantizer_parameters(plan) < search.adapter.parameters()


@pytest.mark.slow
def test_layers_without_bias_windows_and_mergings_are_realised(sequential, tmp_path):
    search, plan, states = realised(sequential, tmp_path, "swin")
    pictures = images(search.adapter, 4, seed=5)
    with torch.inference_mode():
        expected = search.adapter.run(pictures)
        logits = search.quantized_model().apply(plan).adapter.run(pictures)
    assert states.keys() == {site.name for site in search.adapter.sites}
    assert (logits - expected).square().mean() < expected.var()
