"""Round to nearest on every site type."""

import pytest
import torch

from lampq.base_quantizers.rtn import RoundToNearest
from lampq.errors import LampQError
from lampq.plan.bits import Bits
from tests.base_quantizers.example_sites import TYPES, example, site


@pytest.mark.parametrize("kind", TYPES)
def test_every_site_type_works_and_error_falls_with_bits(kind):
    layer, inputs = example(kind)
    expected = layer(*inputs)
    errors = []
    for bits in (1, 2, 4, 8, 16):
        state = RoundToNearest().calibrate(site(kind), layer, inputs, Bits(bits, bits))
        module = RoundToNearest().quantized_module(site(kind), layer, state, Bits(bits, bits))
        errors.append((module(*inputs) - expected).square().mean().item())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-6 < errors[0]


def test_none_leaves_the_operand_in_full_precision():
    layer, inputs = example("proj")
    method = RoundToNearest()
    state = method.calibrate(site("proj"), layer, inputs, Bits(None, None))
    assert state == {}
    assert torch.equal(method.quantized_module(site("proj"), layer, state, Bits(None, None))(*inputs), layer(*inputs))
    weights_only = method.calibrate(site("proj"), layer, inputs, Bits(4, None))
    assert set(weights_only) == {"weight_scale", "weight_zero_point"}


def test_weights_have_one_range_per_row():
    layer, inputs = example("proj")
    with torch.no_grad():
        layer.weight[0] *= 1000
    state = RoundToNearest().calibrate(site("proj"), layer, inputs, Bits(8, None))
    module = RoundToNearest().quantized_module(site("proj"), layer, state, Bits(8, None))
    error = (module.weight - layer.weight).abs().amax(1)
    assert (error <= state["weight_scale"]).all() and error[1:].max() < 0.01


def test_inputs_that_are_not_finite_are_refused():
    layer, (x,) = example("proj")
    x[0, 0, 0] = float("nan")
    with pytest.raises(LampQError, match=r"blocks\.0\.proj.*NaN"):
        RoundToNearest().calibrate(site("proj"), layer, (x,), Bits(4, 4))
