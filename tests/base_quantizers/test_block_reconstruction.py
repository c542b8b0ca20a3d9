"""Methods that train blocks: whole plans get better, interruptions cost a block, mixed bits and odd plans work."""

import functools
import tempfile
from pathlib import Path

import pytest
import torch

from lampq.bank.quantized_model import QuantizedModel
from lampq.base_quantizers.adalog import AdaLog
from lampq.base_quantizers.adalog_recon import AdaLogReconstruction
from lampq.base_quantizers.aphq_vit import APHQViT, published_percentile
from lampq.base_quantizers.fima_q import FimaQ
from lampq.base_quantizers.glf_q import GlfQ
from lampq.base_quantizers.pd_quant import PDQuant
from lampq.base_quantizers.qdrop import QDrop
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.models.timm_adapters import VisionTransformerAdapter
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from tests.reconstruction.blocks import QUICK, QUICK_STRAIGHT_THROUGH
from tests.small_models import VIT_SIDE, distilled_adapter, images, search_over, vision_transformer, vit_adapter

METHODS = (AdaLogReconstruction, QDrop, PDQuant, FimaQ, APHQViT, GlfQ)
BUDGET = Budget(3, 3, (2, 3, 4), "fixed", (3, 3), "target")


def method(cls, **changes):
    quick = QUICK_STRAIGHT_THROUGH if issubclass(cls, GlfQ) else QUICK
    return cls(**{**quick, "iterations": 3, **changes})


def searched(root, its_method, build=vit_adapter):
    return search_over(build(), root, base_quantizer=its_method, calibration_images=8)


def uniform(search, bits=3):
    return BUDGET.plan(search.adapter.sites, {site.name: bits for site in search.layers})


def loss(search, plan, realised=True):
    """Mean squared error of the logits on other images."""
    realisation = search.realisation if realised else None
    adapter = QuantizedModel(search.adapter, search.bank, realisation).apply(plan).adapter
    pictures = images(search.adapter, 64, seed=5)
    with torch.inference_mode():
        return (adapter.run(pictures) - search.adapter.run(pictures)).square().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("cls", METHODS)
def test_the_whole_model_gets_better(tmp_path, cls):
    extra = {APHQViT: {"mlp_rate": 3e-3}, GlfQ: {"mlp_rate": 3e-3, "mlp_iterations": 60}}.get(cls, {})
    # AdaLog's, which starts from smaller errors, needs more steps to come out ahead of them.
    iterations = 100 if cls is AdaLogReconstruction else 30
    its_method = method(cls, iterations=iterations, images=64, scale_rate=1e-3, **extra)
    search = searched(tmp_path, its_method, lambda: vit_adapter(2))
    plan = uniform(search)
    assert loss(search, plan) < loss(search, plan, realised=False)


@pytest.mark.parametrize("cls", [QDrop, APHQViT, GlfQ])
def test_mixed_bits_and_sites_in_full_precision(tmp_path, cls):
    search = searched(tmp_path, method(cls), distilled_adapter)
    plan = uniform(search).with_bits(
        {
            "blocks.0.attn.qkv": (2, 4),
            "blocks.0.mlp.fc1": (None, 3),
            "blocks.0.mlp.fc2": (4, None),
            "blocks.1.mlp.fc1": (None, None),
            "blocks.1.attn.qk": (None, None),
            "head_dist": (8, None),
        }
    )
    states = search.realisation.states(plan)
    assert "weight_codes" not in states["blocks.0.mlp.fc1"] and states["blocks.0.attn.qkv"]["weight_codes"].max() <= 3
    assert "blocks.1.attn.qk" not in states and states["head_dist"]["weight_codes"].max() > 15
    assert loss(search, plan) < loss(search, uniform(search, 2), realised=False)


@pytest.mark.parametrize("cls", [QDrop, GlfQ])
def test_interrupted_it_goes_on_at_the_block(tmp_path, cls):
    class Killed(cls):
        def realise_segment(self, segment):
            if segment.index == 2:
                raise KeyboardInterrupt
            return super().realise_segment(segment)

    search = searched(tmp_path, method(Killed))
    with pytest.raises(KeyboardInterrupt):
        search.realisation.states(uniform(search))
    trained = []

    class Watched(cls):
        def realise_segment(self, segment):
            trained.append(segment.index)
            return super().realise_segment(segment)

    again = searched(tmp_path, method(Watched)).realisation.states(uniform(search))
    assert trained == [2, 3, 4]
    expected = searched(tmp_path / "other", method(cls)).realisation.states(uniform(search))
    assert all(torch.equal(again[name][key], expected[name][key]) for name in expected for key in expected[name])


def test_independent_states_are_shared(tmp_path):
    """AdaLog's entries serve its reconstruction, those of QDrop serve PD-Quant, and so do scores."""
    adalog = AdaLog(candidates=32, rounds=1, steps=1)
    first = searched(tmp_path, adalog)
    first.bank.calibrate(uniform(first))
    score = first.evaluator.score(uniform(first))
    second = searched(tmp_path, method(AdaLogReconstruction, steps=1))
    second.bank.calibrate(uniform(second))
    assert "bank" not in second.store.seconds_computed
    assert torch.equal(second.evaluator.score(uniform(second)).loss, score.loss) and second.evaluator.evaluations == 0
    identities = [searched(tmp_path, method(cls)).bank.identity for cls in (QDrop, PDQuant, FimaQ, APHQViT)]
    assert all(identity == identities[0] for identity in identities)
    realised = {str(searched(tmp_path, method(cls)).realisation.identity) for cls in METHODS}
    assert len(realised) == len(METHODS)


@pytest.mark.parametrize(
    ("cls", "changes"),
    [
        (AdaLogReconstruction, {"steps": 2}),
        (AdaLogReconstruction, {"elitist": True, "steps": 2}),
        (AdaLogReconstruction, {"one_bit": "symmetric"}),
        (AdaLogReconstruction, {"images": 20}),
        (QDrop, {"quantized_probability": 1.0}),
        (QDrop, {"candidates": 48}),
        (QDrop, {"rounds": 2}),
        (PDQuant, {"temperature": 1.0}),
        (PDQuant, {"prediction_weight": 10.0}),
        (FimaQ, {"temperature": 1.0}),
        (FimaQ, {"rank": 1}),
        (FimaQ, {"gradient_images": 2}),
        (APHQViT, {"temperature": 1.0}),
        (APHQViT, {"hessian_images": 2}),
        (APHQViT, {"mlp_reconstruction": False}),
        (APHQViT, {"mlp_rate": 1e-2}),
        (GlfQ, {"loss": "local"}),
        (GlfQ, {"loss": "global"}),
        (GlfQ, {"loss": "logits_local"}),
        (GlfQ, {"loss": "fima"}),
        (GlfQ, {"local_weight": 4.0}),
        (GlfQ, {"weight_rate": 1e-2}),
        (GlfQ, {"scale_rate": 1e-3}),
        (GlfQ, {"iterations": 4}),
        (GlfQ, {"mlp_reconstruction": False}),
        (GlfQ, {"mlp_iterations": 4}),
        (GlfQ, {"mlp_rate": 1e-2}),
        (GlfQ, {"start": "searched", "candidates": 32, "rounds": 1}),
    ],
    ids=str,
)
def test_every_option_changes_the_result_and_the_fingerprint(tmp_path_factory, cls, changes):
    plain = {"elitist": (("steps", 2),), "one_bit": (("one_bit", "literal"),)}.get(next(iter(changes)), ())
    bits = 1 if "one_bit" in changes else 3
    folder = tmp_path_factory.getbasetemp()
    settings, values = trained(folder, cls, plain, bits)
    others, changed = trained(folder, cls, tuple(changes.items()), bits)
    assert settings != others
    assert values.shape != changed.shape or not torch.equal(values, changed)


@functools.cache
def trained(folder, cls, options, bits):
    """Settings of a method, and all that it finds for a network of one block."""
    its_method = method(cls, **dict(options))
    search = searched(Path(tempfile.mkdtemp(dir=folder)), its_method, lambda: vit_adapter(1))
    states = search.realisation.states(uniform(search, bits))
    return its_method.settings(), torch.cat([v.flatten().double() for state in states.values() for v in state.values()])


def test_search_is_not_among_the_settings():
    assert method(QDrop, search="exact").settings() == method(QDrop).settings()


@pytest.mark.parametrize("cls", [APHQViT, GlfQ])
def test_trained_mlps_have_relu_between_their_layers(tmp_path, cls):
    search = searched(tmp_path, method(cls))
    plan = uniform(search)
    quantized = search.quantized_model()
    adapter = quantized.apply(plan).adapter
    assert isinstance(adapter.module("blocks.1.mlp.act"), torch.nn.ReLU)
    fc2 = adapter.module("blocks.1.mlp.fc2").quantize_input
    assert fc2.zero_point.item() == 0, "no code is spent on negative values"
    assert isinstance(search.adapter.module("blocks.1.mlp.act"), torch.nn.GELU)
    back = quantized.apply(BitPlan.full_precision(search.adapter.sites)).adapter
    assert isinstance(back.module("blocks.1.mlp.act"), torch.nn.GELU)
    # Without both of its layers among the quantized ones an MLP stays what it is.
    partly = quantized.apply(plan.with_bits({"blocks.1.mlp.fc1": (None, None)})).adapter
    assert isinstance(partly.module("blocks.1.mlp.act"), torch.nn.GELU)
    assert isinstance(partly.module("blocks.0.mlp.act"), torch.nn.ReLU)


def test_trained_mlps_serve_every_plan_of_glf_q_and_none_of_another_method(tmp_path):
    """Its bound knows nothing of bits."""
    search = searched(tmp_path, method(GlfQ))
    search.realisation.states(uniform(search))
    before = search.store.seconds_computed["mlps"]
    search.realisation.states(uniform(search).with_bits({"blocks.1.mlp.fc2": (3, 4)}))
    assert search.store.seconds_computed["mlps"] == before
    other = searched(tmp_path, method(APHQViT))
    other.realisation.states(uniform(other))
    assert other.store.seconds_computed["mlps"] > 0


def test_losses_of_glf_q_are_as_many_as_there_are_names(tmp_path):
    """No two of them train to the same, and what a loss does not read is not among the settings."""
    found, known = [], {"global_local": True, "local": False, "global": False, "logits_local": True, "fima": False}
    for loss, weighed in known.items():
        its_method = method(GlfQ, loss=loss, mlp_reconstruction=False)
        search = searched(tmp_path, its_method, lambda: vit_adapter(1))
        states = search.realisation.states(uniform(search))
        found.append(
            torch.cat([states[name]["input_scale"].view(1) for name in states if "input_scale" in states[name]])
        )
        assert ("local_weight" in its_method.settings()) == weighed and "mlp_rate" not in its_method.settings()
    assert len(set(found)) == len(known)


def test_glf_q_starts_from_whole_ranges_or_from_what_qdrop_starts_from(tmp_path):
    def identity(its_method):
        return searched(tmp_path, its_method).bank.identity

    short = {"candidates": 32, "rounds": 1}
    assert identity(method(GlfQ)) == identity(method(GlfQ, candidates=48, rounds=2)) == identity(RoundToNearest())
    assert identity(method(GlfQ, start="searched", **short)) == identity(method(QDrop))
    others = [method(GlfQ, start="searched", **{**short, key: 64}) for key in (*short, "images")]
    assert len({str(other.settings()) for other in others}) == 3
    search = searched(tmp_path, method(GlfQ, start="searched", **short), lambda: vit_adapter(1))
    states = search.realisation.states(uniform(search))
    assert "channel_scale" in states["blocks.0.mlp.fc1"], "LayerNorms are reparameterized"
    assert states["blocks.0.attn.qk"]["a_scale"].shape == (3,) and states["blocks.0.mlp.fc2"]["input_zero_point"] == 0
    assert loss(search, uniform(search)) < loss(search, uniform(search, 2), realised=False)


def test_glf_q_leaves_scales_of_weights_and_biases_where_they_are(tmp_path):
    """Rows keep what covers their whole range; only codes move."""
    search = searched(tmp_path, method(GlfQ, mlp_reconstruction=False, iterations=20), lambda: vit_adapter(1))
    plan = uniform(search)
    states, moved = search.realisation.states(plan), 0
    for name, state in states.items():
        if "weight_scale" in state:
            start = search.bank.entry(search.adapter.site(name), plan[name].bits)
            assert torch.equal(state["weight_scale"], start["weight_scale"]) and "bias" not in state
            rows = search.adapter.module(name).weight.flatten(1)
            codes = (rows / start["weight_scale"][:, None]).round() + start["weight_zero_point"][:, None]
            moved += (codes != state["weight_codes"].flatten(1)).sum()
    assert moved > 0


def test_a_network_that_does_not_say_what_its_classifier_reads_is_refused(tmp_path):
    class Silent(VisionTransformerAdapter):
        penultimate = ModelAdapter.penultimate

    def build():
        return Silent("silent", vision_transformer(1), input_size=(3, VIT_SIDE, VIT_SIDE))

    with pytest.raises(LampQError, match=r"base_quantizer.loss=global_local: silent says nothing"):
        searched(tmp_path, method(GlfQ), build)
    search = searched(tmp_path, method(GlfQ, loss="local"), build)
    assert search.realisation.states(uniform(search))


def test_trained_mlps_serve_other_plans(tmp_path):
    """They depend on the bits through the bound alone."""
    search = searched(tmp_path, method(APHQViT))
    search.realisation.states(uniform(search))
    before = search.store.seconds_computed["mlps"]
    search.realisation.states(uniform(search).with_bits({"blocks.1.attn.qkv": (4, 4)}))
    assert search.store.seconds_computed["mlps"] == before
    search.realisation.states(uniform(search).with_bits({"blocks.1.mlp.fc2": (3, 4)}))
    assert search.store.seconds_computed["mlps"] > before


def test_inputs_only_and_trained_mlp_weights(tmp_path):
    search = searched(tmp_path, method(APHQViT))
    plan = BitPlan.full_precision(search.adapter.sites).with_bits(
        {"blocks.1.mlp.fc1": (None, 8), "blocks.1.mlp.fc2": (None, 8)}
    )
    states = search.realisation.states(plan)
    assert states["blocks.1.mlp.fc1"]["weight"].shape == search.adapter.module("blocks.1.mlp.fc1").weight.shape
    assert loss(search, plan) < 0.2


def test_a_network_without_gelu_is_refused(tmp_path):
    adapter = vit_adapter(1, act_layer=torch.nn.SiLU)
    with pytest.raises(LampQError, match="mlp_reconstruction"):
        searched(tmp_path, method(APHQViT), adapter.clone)
    search = searched(tmp_path, method(APHQViT, mlp_reconstruction=False), adapter.clone)
    assert search.realisation.states(uniform(search))


@pytest.mark.parametrize(("bits", "percentile"), [(2, 0.98), (3, 0.99), (4, 0.98), (8, 0.99)])
def test_published_percentiles(bits, percentile):
    assert published_percentile(bits) == percentile


def test_a_value_out_of_range_is_named():
    for cls, key, value in [
        (QDrop, "iterations", 0),
        (QDrop, "images", 0),
        (QDrop, "batch_size", 0),
        (QDrop, "rounding_rate", 0),
        (QDrop, "scale_rate", -1),
        (QDrop, "regularization", -0.1),
        (QDrop, "warmup", 1.5),
        (QDrop, "search", "both"),
        (QDrop, "quantized_probability", 2),
        (QDrop, "candidates", 33),
        (PDQuant, "temperature", 0),
        (PDQuant, "prediction_weight", 0),
        (FimaQ, "rank", 0),
        (FimaQ, "gradient_images", 0),
        (APHQViT, "mlp_reconstruction", "yes"),
        (APHQViT, "hessian_images", 0),
        (APHQViT, "mlp_rate", 0),
        (GlfQ, "weight_rate", 0),
        (GlfQ, "loss", "both"),
        (GlfQ, "local_weight", 0),
        (GlfQ, "mlp_iterations", 0),
        (GlfQ, "start", "zero"),
    ]:
        with pytest.raises(LampQError, match=f"base_quantizer.{key}="):
            method(cls, **{key: value})
            pytest.fail(f"accepted: {cls}, {key}")
