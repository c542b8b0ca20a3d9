"""Training one block: its error falls, limits are exact, pieces and threads do not matter."""

import pytest
import torch

from lampq.base_quantizers.adalog_recon import AdaLogReconstruction
from lampq.base_quantizers.qdrop import QDrop
from lampq.number_formats.uniform import fake_quantize_affine
from lampq.reconstruction.losses.mse import SquaredError
from lampq.reconstruction.straight_through_weights import StraightThroughWeights
from lampq.reconstruction.training import added, cosine
from tests.reconstruction.blocks import QUICK, block_of, error, independent_states, method_of, recipe, segment_of
from tests.small_models import distilled_adapter, swin_adapter


def trained(segment, its_recipe, loss=None, states=None):
    with block_of(segment, its_recipe, states) as block:
        block.train(loss or SquaredError(), its_recipe)
        return block.states()


@pytest.mark.parametrize("cls", [AdaLogReconstruction, QDrop])
def test_the_output_error_of_a_block_falls(cls):
    segment = segment_of(cls(**QUICK))
    start = independent_states(segment)
    states = trained(segment, recipe(iterations=50, quantized_activation=0.5, quantized_input=0.5), states=start)
    assert error(segment, states) < 0.95 * error(segment, start)
    changed = [name for name in states if not torch.equal(states[name].get("input_scale", torch.ones(())),
                                                          start[name].get("input_scale", torch.ones(())))]  # fmt: skip
    assert len(changed) == 4, "scales of all four layers are trained"


def test_weights_end_at_a_neighbouring_code():
    segment = segment_of(QDrop(**QUICK))
    start = independent_states(segment)
    states = trained(segment, recipe(), states=start)
    layer, state = segment.full_precision.module("blocks.1.attn.proj"), states["blocks.1.attn.proj"]
    scale, zero_point = state["weight_scale"][:, None], state["weight_zero_point"][:, None]
    codes = state["weight_codes"].float()
    lower = (layer.weight / scale).floor() + zero_point
    assert state["weight_codes"].dtype == torch.uint8
    assert ((codes == lower.clamp(0, 7)) | (codes == (lower + 1).clamp(0, 7))).all()
    nearest = fake_quantize_affine(layer.weight, scale, zero_point, 3)
    module = method_of(segment).quantized_module(*placed(segment, "blocks.1.attn.proj", state))
    assert 0 < (module.weight != nearest).float().mean() < 0.5, "some weights are rounded the other way"
    assert torch.equal(module.weight, scale * (codes - zero_point))


def placed(segment, name, state):
    site, bits = next(entry for entry in segment.sites if entry[0].name == name)
    return site, segment.full_precision.module(name), state, bits


@pytest.mark.parametrize("cls", [AdaLogReconstruction, QDrop])
def test_the_block_starts_where_its_states_are(cls):
    """Soft weights are the full-precision ones, activations are quantized as in the quantized modules."""
    segment = segment_of(cls(**QUICK), bits={"qkv": (None, 3), "fc2": (None, 4), "pv": (None, 3), "qk": (None, 3)})
    start = independent_states(segment)
    with block_of(segment, recipe(), start) as block, torch.no_grad():
        output = block.run(segment.inputs)
    expected = ((output - segment.full_precision_outputs()).square().mean()).item()
    assert error(segment, start) == pytest.approx(expected, rel=1e-3) and expected > 0


def test_nothing_is_lost_where_nothing_is_quantized():
    """Weights that are codes already, inputs in full precision: the loss is 0 from the start, and stays."""
    segment = segment_of(QDrop(**QUICK), bits={"proj": (3, None)}, noise=0)
    layer = segment.full_precision.module("blocks.1.attn.proj")
    states = independent_states(segment)
    state = states["blocks.1.attn.proj"]
    scale, zero_point = state["weight_scale"][:, None], state["weight_zero_point"][:, None]
    layer.weight.copy_(fake_quantize_affine(layer.weight, scale, zero_point, 3))
    values = []

    class Recorded(SquaredError):
        def __call__(self, output, target, images):
            value = super().__call__(output, target, images)
            values.append(value.max().item())
            return value

    found = trained(segment, recipe(iterations=5, regularization=0.0), Recorded(), states)
    assert max(values) < 1e-9
    assert error(segment, found) < 1e-10


def test_a_segment_without_anything_to_train_is_left_as_it_is():
    segment = segment_of(AdaLogReconstruction(**QUICK), bits={"patch_embed": (None, 3)}, index=0)
    steps = []
    object.__setattr__(segment, "step", steps.append)
    assert trained(segment, recipe(iterations=7)) == {"patch_embed.proj": {}} and steps == [7]


def test_input_and_activation_probabilities_matter():
    def states(**changes):
        return trained(segment_of(QDrop(**QUICK), noise=0.5), recipe(iterations=5, **changes))["blocks.1.mlp.fc1"]

    found = [
        states(quantized_input=x, quantized_activation=a)["input_scale"].item() for x, a in ((1, 1), (0, 1), (1, 0.5))
    ]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iterations", 3),
        ("batch_size", 4),
        ("weight_rate", 0.2),
        ("scale_rate", 0.02),
        ("warmup", 0.9),
        ("regularization", 30.0),
        ("exponents", (3.0, 1.5)),
        ("weights", StraightThroughWeights),
    ],
)
def test_every_part_of_the_recipe_changes_the_result(name, value):
    def found(**changes):
        states = trained(segment_of(QDrop(**QUICK)), recipe(iterations=changes.pop("iterations", 8), **changes))
        return torch.cat([v.flatten().float() for state in states.values() for v in state.values()])

    assert not torch.equal(found(), found(**{name: value}))


def test_a_strong_regularizer_drives_weights_to_codes():
    segment = segment_of(QDrop(**QUICK))
    with block_of(segment, recipe()) as block:
        before = soft_fraction(block)
        block.train(SquaredError(), recipe(iterations=60, regularization=1.0, warmup=0.0, exponents=(8.0, 2.0)))
        assert soft_fraction(block) < 0.3 * before


def soft_fraction(block):
    """How many weights are between their two codes."""
    soft = torch.cat([rounding._soft.flatten() for rounding in block._weights.values()])
    return ((soft > 0.01) & (soft < 0.99)).float().mean()


def test_the_seed_decides(tmp_path):
    def found(seed):
        return trained(segment_of(QDrop(**QUICK), seed=seed), recipe(iterations=4))["blocks.1.mlp.fc1"]["input_scale"]

    assert torch.equal(found(0), found(0)) and not torch.equal(found(0), found(1))


@pytest.mark.parametrize("build", [swin_adapter, distilled_adapter])
def test_other_architectures(build):
    """Windows, shifted ones, a merging without bias; two class tokens."""
    adapter = build()
    for index in (0, 2, 3 if build is swin_adapter else 1):
        segment = segment_of(QDrop(**QUICK), index, 3, adapter, count=12)
        start = independent_states(segment)
        steps = recipe(iterations=25, batch_size=12)
        assert error(segment, trained(segment, steps, states=start)) < error(segment, start)


def test_the_learning_rate_of_scales_falls_to_zero():
    assert cosine(2.0, 0, 10) == 2.0 and cosine(2.0, 5, 10) == pytest.approx(1.0)
    assert cosine(2.0, 10, 10) == pytest.approx(0.0)


def test_gradients_of_pieces_are_added():
    pieces = [(torch.tensor([1.0]), torch.tensor([[2.0]])), (torch.tensor([3.0]), torch.tensor([[5.0]]))]
    assert [tensor.item() for tensor in added(pieces)] == [4.0, 7.0]
