"""OPTQ against what the authors' own code answered, its textbook properties, and RepQ-ViT's activations with it."""

from pathlib import Path

import numpy
import pytest
import torch

from lampq.base_quantizers.optq import OPTQ, compensated_codes, hessian
from lampq.base_quantizers.repq_vit import RepQViT
from lampq.errors import LampQError
from lampq.number_formats.uniform import affine_codes, affine_from_range
from lampq.plan.bits import Bits
from tests.base_quantizers.example_sites import TYPES, example, site

GOLDEN = Path(__file__).parent.parent / "golden"


def values_of(codes, scale, zero_point):
    return (codes - zero_point[:, None]) * scale[:, None]


def correlated(rows=16, columns=16, samples=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, columns, generator=generator, dtype=torch.float64)
    inputs = inputs @ torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64), inputs


@pytest.mark.parametrize("act_order", [False, True])
def test_the_authors_weights(act_order):
    for bits in [2, 3, 4]:
        for block_size in [8, 7, 128]:
            with numpy.load(GOLDEN / f"optq_{bits}bit{'_act_order' if act_order else ''}.npz") as arrays:
                golden = {key: torch.tensor(arrays[key], dtype=torch.float64) for key in arrays.files}
            weight = golden["weight"]
            second_moments = hessian(golden["input"])
            # The authors count the 64 rows as one sample; a factor makes no difference.
            torch.testing.assert_close(64 * second_moments, golden["hessian"], rtol=1e-4, atol=1e-2)
            scale, zero_point = affine_from_range(weight.amin(1), weight.amax(1), bits)
            torch.testing.assert_close(scale, golden["scale"], rtol=1e-6, atol=0)
            codes = compensated_codes(weight, second_moments, scale, zero_point, bits, 0.01, block_size, act_order)
            expected = torch.round(golden["output_weight"] / scale[:, None]) + zero_point[:, None]
            assert torch.equal(codes, expected), (bits, block_size)


def test_two_columns_by_hand():
    weight, moments = torch.tensor([[0.4, 0.4]], dtype=torch.float64), torch.tensor([[2.0, 1], [1, 2]]).double()
    codes = compensated_codes(weight, moments, torch.ones(1), torch.zeros(1), 1, damping=1e-12)
    assert codes.tolist() == [[0, 1]]
    error = codes - weight
    assert (error @ moments @ error.T).item() == pytest.approx(0.56) and (weight @ moments @ weight.T).item() > 0.9


def test_without_correlation_it_is_rounding_to_nearest():
    weight, _ = correlated()
    scale, zero_point = affine_from_range(weight.amin(1), weight.amax(1), 3)
    nearest = affine_codes(weight, scale[:, None], zero_point[:, None], 3)
    assert torch.equal(compensated_codes(weight, 5 * torch.eye(16).double(), scale, zero_point, 3), nearest)


def test_with_correlation_the_output_error_is_smaller_and_the_grid_is_kept():
    weight, inputs = correlated()
    scale, zero_point = affine_from_range(weight.amin(1), weight.amax(1), 3)
    codes = compensated_codes(weight, hessian(inputs), scale, zero_point, 3)
    assert torch.equal(codes, codes.round()) and codes.min() >= 0 and codes.max() <= 7
    nearest = affine_codes(weight, scale[:, None], zero_point[:, None], 3)
    errors = [((values_of(c, scale, zero_point) - weight) @ inputs.T).square().sum() for c in (codes, nearest)]
    assert errors[0] < 0.7 * errors[1]


def test_a_dead_column_is_zero_and_changes_nothing_else():
    weight, inputs = correlated()
    inputs[:, 3] = 0
    scale, zero_point = affine_from_range(weight.amin(1), weight.amax(1), 4)
    codes = compensated_codes(weight, hessian(inputs), scale, zero_point, 4)
    assert torch.equal(codes[:, 3], zero_point)
    other = weight.clone()
    other[:, 3] += 1
    assert torch.equal(compensated_codes(other, hessian(inputs), scale, zero_point, 4), codes)


def module_of(method, kind, bits=3):
    layer, inputs = example(kind)
    state = method.calibrate(site(kind), layer, inputs, Bits(bits, bits))
    return method.quantized_module(site(kind), layer, state, Bits(bits, bits)), state


@pytest.mark.parametrize("kind", TYPES)
def test_activations_are_those_of_repq_vit(kind):
    mine, theirs = module_of(OPTQ(), kind)[1], module_of(RepQViT(), kind)[1]
    names = {name for name in theirs if not name.startswith("weight_")}
    assert names == {name for name in mine if not name.startswith("weight_")} and names
    assert all(torch.equal(mine[name], theirs[name]) for name in names)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind not in ("qk", "pv")])
def test_stored_codes_are_the_weights(kind):
    module, state = module_of(OPTQ(), kind)
    assert state["weight_codes"].dtype == torch.uint8 and state["weight_codes"].max() < 8
    weight = values_of(state["weight_codes"].float(), state["weight_scale"], state["weight_zero_point"])
    assert torch.equal(module.weight.flatten(1), weight)
    stored = [value.numel() for name, value in state.items() if name != "weight_codes"]
    assert OPTQ().stored_parameters(state) == sum(stored)


def test_the_hessian_is_that_of_quantized_inputs():
    """Columns that the input's format makes zero are dead, although the inputs themselves are not."""
    layer, (x,) = example("proj")
    x = x.clone()
    x[..., 3] *= 1e-4
    state = OPTQ().calibrate(site("proj"), layer, (x,), Bits(4, 4))
    assert torch.equal(state["weight_codes"][:, 3].float(), state["weight_zero_point"])
    in_full_precision = OPTQ().calibrate(site("proj"), layer, (x,), Bits(4, None))
    assert not torch.equal(in_full_precision["weight_codes"][:, 3].float(), in_full_precision["weight_zero_point"])


@pytest.mark.parametrize("options", [{"damping": 0.5}, {"act_order": True}])
def test_options_change_the_weights(options):
    plain, changed = module_of(OPTQ(), "fc2")[1], module_of(OPTQ(**options), "fc2")[1]
    assert not torch.equal(plain["weight_codes"], changed["weight_codes"])
    assert OPTQ(**options).settings() != OPTQ().settings()


def test_the_block_size_changes_nothing():
    plain, blocks = module_of(OPTQ(), "fc2")[1], module_of(OPTQ(block_size=5), "fc2")[1]
    assert torch.equal(plain["weight_codes"], blocks["weight_codes"])
    assert OPTQ(block_size=5).settings() == OPTQ().settings()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0}, "base_quantizer.damping=0: must be a number above 0"),
        ({"block_size": 0}, "base_quantizer.block_size=0: must be an integer of at least 1"),
        ({"act_order": "yes"}, "base_quantizer.act_order=yes: must be true or false"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(LampQError) as error:
        OPTQ(**options)
    assert message in str(error.value)
