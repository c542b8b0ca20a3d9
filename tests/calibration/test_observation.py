"""Observing the full-precision model: every site's inputs, images run once and only when needed."""

import pytest
import torch

from lampq.calibration.observation import CHUNK, Observer
from tests.small_models import distilled_adapter, images, swin_adapter, vit_adapter

ADAPTERS = {"vit": vit_adapter, "distilled": distilled_adapter, "swin": swin_adapter}


class Images:
    """Calibration images, and how often they were asked for."""

    def __init__(self, adapter, count):
        self.tensor, self.calls = images(adapter, count), 0

    def __call__(self):
        self.calls += 1
        return self.tensor


@pytest.fixture(params=ADAPTERS)
def adapter(request):
    return ADAPTERS[request.param]()


def operands_by_hooks(adapter, pictures):
    """What reaches every site when the whole model is run on all images at once."""
    seen = {}
    handles = [
        adapter.module(site.name).register_forward_pre_hook(
            lambda module, operands, name=site.name: seen.update({name: operands})
        )
        for site in adapter.sites
    ]
    with torch.inference_mode():
        adapter.run(pictures)
    for handle in handles:
        handle.remove()
    return seen


def test_inputs_are_those_of_the_whole_model(adapter):
    pictures = Images(adapter, CHUNK + 5)  # more than one chunk, the last not full
    observer = Observer(adapter, pictures)
    expected = operands_by_hooks(adapter, pictures.tensor)
    for site in adapter.sites:
        inputs = observer.inputs(site)
        assert len(inputs) == (2 if site.is_matmul else 1)
        for mine, theirs in zip(inputs, expected[site.name], strict=True):
            assert len(mine) % len(pictures.tensor) == 0
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_inputs_do_not_depend_on_what_else_is_asked_and_when(adapter):
    forwards, backwards = Observer(adapter, Images(adapter, 5)), Observer(adapter, Images(adapter, 5))
    seen = {site.name: forwards.inputs(site) for site in adapter.sites}
    for site in reversed(adapter.sites):
        for mine, theirs in zip(backwards.inputs(site), seen[site.name], strict=True):
            assert torch.equal(mine, theirs)


def test_what_does_not_fit_into_memory_is_run_again_and_is_the_same(adapter):
    pictures = Images(adapter, CHUNK + 2)
    unlimited, held = Observer(adapter, pictures), []
    sizes = {s.name: sum(x.nbytes for x in unlimited.inputs(s)) for s in adapter.sites}
    half = max(sizes.values()) + 1  # one large site at a time, small ones together
    for memory in (0, 2 * half):
        observer = Observer(adapter, pictures, memory)
        for site in (*adapter.sites, adapter.sites[1]):
            for mine, theirs in zip(observer.inputs(site), unlimited.inputs(site), strict=True):
                assert torch.equal(mine, theirs)
            held.append(len(observer._inputs))
            observed = sum(sizes[name] for name in observer._inputs)
            assert len(observer._inputs) == 1 if memory == 0 else observed <= half
            # The images, and the inputs of the segment at hand.
            assert len(observer._states) <= 2 or sum(x.nbytes for s in observer._states.values() for x in s) <= half
    assert max(held) > 1 and pictures.calls == 3


def test_images_are_run_only_when_a_site_is_asked_for_and_once(adapter):
    pictures = Images(adapter, 5)
    observer = Observer(adapter, pictures)
    runs = []
    segment = observer.adapter.run_segment
    observer.adapter.run_segment = lambda index, state: runs.append(index) or segment(index, state)
    assert pictures.calls == 0
    last = adapter.sites[-1]
    observer.inputs(last)
    assert pictures.calls == 1 and runs == list(range(adapter.segments))
    observer.inputs(last)
    assert runs == list(range(adapter.segments)), "the segment's inputs are there already"
    first = adapter.sites[0]
    observer.inputs(first)
    assert pictures.calls == 1 and runs[adapter.segments :] == [0], "only the segment itself is run again"


def test_no_hook_stays_behind(adapter):
    observer = Observer(adapter, Images(adapter, 2))
    for site in adapter.sites:
        observer.inputs(site)
    assert not any(module._forward_pre_hooks for module in observer.adapter.network.modules())


def test_the_models_own_modules_are_never_hooked(adapter):
    """Sites are calibrated side by side: a call of a module in one thread must not be taken for an observation."""
    observer = Observer(adapter, Images(adapter, 2))
    segment = observer.adapter.run_segment

    def watched(index, state):
        assert not any(module._forward_pre_hooks for module in adapter.network.modules())
        adapter.run(images(adapter, 1, seed=3))  # what another thread may do meanwhile
        return segment(index, state)

    observer.adapter.run_segment = watched
    undisturbed = Observer(adapter, Images(adapter, 2))
    for site in adapter.sites:
        for mine, theirs in zip(observer.inputs(site), undisturbed.inputs(site), strict=True):
            assert torch.equal(mine, theirs)


def test_observed_tensors_do_not_follow_the_images():
    adapter = vit_adapter()
    pictures = Images(adapter, 3)
    observer = Observer(adapter, pictures)
    inputs = observer.inputs(adapter.sites[1])[0].clone()
    pictures.tensor.zero_()
    observer.inputs(adapter.sites[-1])
    assert torch.equal(observer.inputs(adapter.sites[1])[0], inputs)
