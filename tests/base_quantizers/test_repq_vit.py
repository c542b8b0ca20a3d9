"""RepQ-ViT on every site type, and on whole models in the published order."""

import pytest
import torch

from lampq.base_quantizers.repq_vit import RepQViT
from lampq.errors import LampQError
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from tests.base_quantizers.example_sites import TYPES, example, site
from tests.small_models import images, search_over, swin_adapter, vit_adapter


def quantize(kind, weight_bits=4, activation_bits=4, inputs=None, **options):
    """The quantized module of an example layer, and its state."""
    layer, operands = example(kind)
    method = RepQViT(**options)
    state = method.calibrate(site(kind), layer, inputs or operands, Bits(weight_bits, activation_bits))
    return method.quantized_module(site(kind), layer, state, Bits(weight_bits, activation_bits)), state


def output_error(kind, module):
    layer, inputs = example(kind)
    return (module(*inputs) - layer(*inputs)).square().mean().item()


@pytest.mark.parametrize("kind", TYPES)
def test_error_falls_with_bits(kind):
    errors = [output_error(kind, quantize(kind, bits, bits)[0]) for bits in (2, 3, 4, 8)]
    assert errors == sorted(errors, reverse=True) and errors[0] > 4 * errors[-1]


@pytest.mark.parametrize("kind", ["qkv", "fc1", "reduction"])
@pytest.mark.parametrize("literal", [False, True])
def test_after_a_layernorm_one_format_a_tensor_does_what_one_a_channel_does(kind, literal):
    """Exactly, where the zero point is an integer; with the authors' fractional one it does not."""
    layer, inputs = example(kind)
    layer, inputs = layer.double(), tuple(x.double() for x in inputs)
    method = RepQViT(literal=literal)
    state = method.calibrate(site(kind), layer, inputs, Bits(None, 4))
    per_tensor = method.quantized_module(site(kind), layer, state, Bits(None, 4))
    per_channel = method.upstream_module(site(kind), layer, state, Bits(None, 4))
    assert per_tensor.quantize_input.scale.numel() == 1 and per_channel.quantize_input.scale.numel() == 32
    difference = (per_tensor(*inputs) - per_channel(*inputs)).abs().max().item()
    assert (difference > 1e-3) if literal else (difference < 1e-12)
    untouched = per_tensor
    untouched.quantize_input = None
    torch.testing.assert_close(untouched(*inputs), layer(*inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("literal", "values"), [(False, 16), (True, 17)])
def test_four_bits_are_sixteen_values_unless_taken_literally(literal, values):
    module, _ = quantize("pv", literal=literal)
    spread = torch.logspace(-9, 0.1, 5000)
    assert module.quantize_a(spread).unique().numel() == values
    module, state = quantize("qkv", literal=literal)
    assert (state["input_zero_point"] == state["input_zero_point"].round()) != literal
    spread = state["input_scale"] * torch.linspace(-40, 40, 5000)
    assert module.quantize_input(spread).unique().numel() == values


def test_bounded_channels_keep_an_outlier_from_stretching_the_weights():
    _, (x,) = example("qkv")
    x = x.clone()
    x[..., 5] *= 300
    free, free_state = quantize("qkv", inputs=(x,))
    scales = [free_state["channel_scale"].max().item()]
    for bound in (0.9, "iqr"):
        _, state = quantize("qkv", inputs=(x,), channel_bound=bound)
        scales.append(state["channel_scale"].max().item())
    assert scales[0] > 20 > 8 > scales[1] and scales[0] > scales[2]
    rest = torch.arange(32) != 5
    bounded, _ = quantize("qkv", inputs=(x,), channel_bound="iqr")
    usual = x.clone()
    usual[..., 5] = 0
    layer = example("qkv")[0]
    errors = [(module(usual) - layer(usual)).square().mean().item() for module in (bounded, free)]
    assert rest.sum() == 31 and errors[0] < errors[1]


def test_a_dead_channel_has_a_usual_scale():
    _, (x,) = example("fc1")
    x = x.clone()
    x[..., 7] = 0
    _, state = quantize("fc1", inputs=(x,))
    assert 0.5 < state["channel_scale"][7] < 2 and state["channel_scale"].isfinite().all()


def test_the_image_has_bits_of_its_own():
    budget = {"weight_bits": 4, "activation_bits": 4, "candidates": (4,)}
    rules = {"activation_rule": "fixed", "fixed_site_bits": (4, 4), "operand_bits": "target"}
    adapter = vit_adapter(1)
    for image_bits in (8, None):
        method = RepQViT(image_bits=image_bits)
        plan = Budget(**budget, **rules, image_bits=method.image_bits).plan(
            adapter.sites, {s.name: 4 for s in adapter.sites if s.allocated}
        )
        assert plan["patch_embed.proj"].bits == (4, image_bits)
    module, _ = quantize("patch_embed", None, 8)
    _, (x,) = example("patch_embed")
    assert module.quantize_input(x).unique().numel() <= 256
    coarse, _ = quantize("patch_embed", None, 4)
    assert 1e-6 < output_error("patch_embed", module) < 0.1 * output_error("patch_embed", coarse)


def plan_of(search, bits=4):
    rules = Budget(
        bits, bits, (bits,), "fixed", (bits, bits), "target", image_bits=search.bank.base_quantizer.image_bits
    )
    return rules.plan(search.adapter.sites, {s.name: bits for s in search.layers})


@pytest.mark.parametrize("build", [vit_adapter, swin_adapter])
def test_inputs_are_observed_before_any_reparameterization(tmp_path, build):
    """In the published order: all of the network is quantized a channel at a time first, LayerNorms come after it."""
    search = search_over(build(), tmp_path, base_quantizer=RepQViT(), calibration_images=4)
    plan, method, pictures = plan_of(search), RepQViT(), search.task.calibration_images
    states = search.realisation.states(plan)
    first_pass, second_pass = search.adapter.clone(), search.adapter.clone()
    with torch.no_grad():
        for target, planned in zip(search.adapter.sites, plan.sites, strict=True):
            seen = []
            hook = first_pass.module(target.name).register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x))
            first_pass.run(pictures)
            hook.remove()
            layer = search.adapter.module(target.name)
            state = method.calibrate(target, layer, seen[0], planned.bits)
            for key, value in state.items():
                torch.testing.assert_close(states[target.name][key], value, rtol=1e-3, atol=1e-3, msg=target.name + key)
            first_pass.replace_module(target.name, method.upstream_module(target, layer, state, planned.bits))
            second_pass.replace_module(target.name, method.quantized_module(target, layer, state, planned.bits))
        others = images(search.adapter, 4, seed=7)
        quantized = search.quantized_model().apply(plan)
        expected = second_pass.run(others)
        torch.testing.assert_close(quantized.adapter.run(others), expected, rtol=1e-2, atol=1e-2)
        assert (first_pass.run(others) - expected).abs().max() > 0.1


def test_inputs_in_full_precision_make_sites_independent(tmp_path):
    published, independent = RepQViT(), RepQViT(inputs="full_precision")
    assert published.sequential and not independent.sequential
    assert published.independent.settings() == independent.settings() != published.settings()
    search = search_over(vit_adapter(), tmp_path, base_quantizer=published)
    plan = plan_of(search)
    states = search.realisation.states(plan)
    alone = search_over(vit_adapter(), tmp_path, base_quantizer=independent)
    assert alone.realisation is None and alone.bank.identity == search.bank.identity
    last, target = plan.sites[-2], search.adapter.site(plan.sites[-2].name)
    mine, theirs = states[last.name]["input_scale"], alone.bank.entry(target, last.bits)["input_scale"]
    assert mine != theirs and mine.item() == pytest.approx(theirs.item(), rel=0.5)


def test_one_bit_and_more_than_eight_are_refused(tmp_path):
    search = search_over(vit_adapter(1), tmp_path, base_quantizer=RepQViT())
    for bits in (1, 9):
        with pytest.raises(LampQError, match=f"repq_vit is not defined at {bits} bits, only at 2 to 8"):
            search.realisation.states(plan_of(search, bits))


def test_a_search_scores_plans_by_independent_sites_or_by_what_is_realised(tmp_path):
    losses = []
    for index, how in enumerate(("surrogate", "exact")):
        method = RepQViT(search=how)
        search = search_over(vit_adapter(), tmp_path / str(index), base_quantizer=method)
        losses.append(search.evaluator.score(plan_of(search, 3)).mean_loss)
    assert losses[0] != losses[1]
    assert RepQViT(search="exact").settings() == RepQViT().settings()


def test_values_out_of_range_are_refused():
    for options, message in [
        ({"inputs": "fp"}, "base_quantizer.inputs=fp: must be one of quantized, full_precision"),
        ({"search": "both"}, "base_quantizer.search=both: must be one of surrogate, block_bank, exact"),
        ({"literal": 1}, "base_quantizer.literal=1: must be true or false"),
        ({"image_bits": 1}, "base_quantizer.image_bits=1: must be an integer between 2 and 8, or null"),
        ({"channel_bound": "quantile"}, "base_quantizer.channel_bound=quantile: must be one of iqr, or null"),
        ({"channel_bound": 0.4}, "base_quantizer.channel_bound=0.4: must be iqr or a fraction of the channels"),
    ]:
        with pytest.raises(LampQError) as error:
            RepQViT(**options)
            pytest.fail(f"accepted: {options}, {message}")
        assert message in str(error.value), (options, message)
