"""Uniform formats everywhere: AdaLog's search where it is the same, no logarithms, no negative codes behind a ReLU."""

import pytest
import torch

from lampq.base_quantizers.adalog import AdaLog
from lampq.base_quantizers.uniform_search import UniformSearch
from lampq.calibration.observation import Observer
from lampq.plan.bits import Bits
from tests.small_models import images, vit_adapter


@pytest.fixture(scope="module")
def observed():
    adapter = vit_adapter(1)
    observer = Observer(adapter, lambda: images(adapter, 4))
    return {site.type: (site, adapter.module(site.name), observer.inputs(site)) for site in adapter.sites}


def test_no_site_has_a_logarithmic_format(observed):
    for type, (site, layer, inputs) in observed.items():
        state = UniformSearch().calibrate(site, layer, inputs, Bits(3, 3))
        assert not [name for name in state if "log" in name], type
        assert len(state) == {"patch_embed": 2, "qkv": 6, "fc1": 6}.get(type, 4)


def test_inputs_are_searched_as_adalog_does_without_refinement(observed):
    """The only difference are zero points of weights: as many as of inputs."""
    site, layer, inputs = observed["proj"]
    mine = UniformSearch().calibrate(site, layer, inputs, Bits(None, 3))
    theirs = AdaLog(steps=1).calibrate(site, layer, inputs, Bits(None, 3))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert UniformSearch().weight_zero_points(3) == list(range(8)) and AdaLog().weight_zero_points(3) == [2, 3, 4, 5]


def test_behind_a_relu_all_values_are_non_negative(observed):
    site, layer, (x,) = observed["fc2"]
    rectified = UniformSearch(rectified=True)
    state = rectified.calibrate(site, layer, (x.relu(),), Bits(3, 3))
    assert state["input_zero_point"].item() == 0
    quantize = rectified.quantized_module(site, layer, state, Bits(3, 3)).quantize_input
    values = quantize(torch.linspace(-1, 100, 1000))
    assert values.min() == 0 and len(values.unique()) == 8
    other, layer, inputs = observed["proj"]
    assert rectified.calibrate(other, layer, inputs, Bits(3, 3))["input_zero_point"].item() > 0
    assert rectified.settings() != UniformSearch().settings()


@pytest.mark.parametrize("changes", [{"candidates": 32}, {"rounds": 1}])
def test_options_change_the_result(observed, changes):
    site, layer, inputs = observed["qk"]
    one, other = (UniformSearch(**c).calibrate(site, layer, inputs, Bits(3, 3)) for c in ({}, changes))
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert UniformSearch(**changes).settings() != UniformSearch().settings()
