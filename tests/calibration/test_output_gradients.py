"""Gradients at the outputs of sites, segment by segment, are those of one pass through the whole model."""

import pytest
import torch
from torch.nn import functional

from lampq.calibration.observation import CHUNK, Observer
from lampq.calibration.output_gradients import SEED, OutputGradients
from lampq.models.sampled_labels import sample_labels
from tests.small_models import distilled_adapter, images, swin_adapter, vit_adapter

MODELS = {"vit": lambda: vit_adapter(2), "distilled": distilled_adapter, "swin": swin_adapter}


def in_one_pass(adapter, pictures, labels):
    """Gradients at every product's output and, by index, at every segment's output."""
    outputs = {}
    handles = [
        adapter.module(site.name).register_forward_hook(
            lambda _, __, output, name=site.name: outputs.update({name: output})
        )
        for site in adapter.sites
    ]
    state = pictures.clone().requires_grad_()
    for index in range(adapter.segments):
        state = adapter.run_segment(index, state)
        outputs[index] = state
    for handle in handles:
        handle.remove()
    loss = functional.cross_entropy(state, labels, reduction="sum")
    return dict(zip(outputs, torch.autograd.grad(loss, list(outputs.values())), strict=True))


def chosen(adapter, pictures, labels):
    logits = adapter.run(pictures)
    return sample_labels(logits, SEED) if labels == "sampled" else logits.argmax(1)


@pytest.mark.parametrize("labels", ["sampled", "most_likely"])
@pytest.mark.parametrize("model", MODELS)
def test_they_are_those_of_one_pass(model, labels):
    adapter = MODELS[model]()
    pictures = images(adapter, CHUNK + 3)
    expected = in_one_pass(adapter, pictures, chosen(adapter, pictures, labels))
    gradients = OutputGradients(Observer(adapter, lambda: pictures), labels)
    for site in reversed(adapter.sites):  # any order will do
        gradient = gradients.at_site(site)
        torch.testing.assert_close(gradient, expected[site.name], rtol=1e-3, atol=1e-6 + 1e-4 * gradient.std().item())
    for index in range(adapter.segments):
        torch.testing.assert_close(gradients.at_segment(index), expected[index], rtol=1e-3, atol=1e-5)


def test_labels_differ_where_the_model_is_in_doubt():
    adapter = vit_adapter(1)
    pictures = images(adapter, 8)
    assert (chosen(adapter, pictures, "sampled") != chosen(adapter, pictures, "most_likely")).any()
    head = adapter.sites[-1]
    one, other = (
        OutputGradients(Observer(adapter, lambda: pictures), labels).at_site(head)
        for labels in ("sampled", "most_likely")
    )
    assert not torch.allclose(one, other)
    torch.testing.assert_close(one.sum(1), torch.zeros(8), rtol=0, atol=1e-5)  # p minus the label's indicator


@pytest.mark.parametrize("labels", ["sampled", "most_likely"])
def test_the_model_is_left_alone_and_inputs_may_be_observed_before_and_after(labels):
    adapter = vit_adapter(2)
    pictures = images(adapter, 5)
    observer = Observer(adapter, lambda: pictures)
    gradients = OutputGradients(observer, labels)
    site = adapter.sites[3]
    with torch.inference_mode():
        before = observer.inputs(site)
        gradient = gradients.at_site(site)
        after = observer.inputs(site)
        assert gradients.at_segment(adapter.segments - 1).shape == adapter.run(pictures).shape
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert gradient.shape == adapter.module(site.name)(*before).shape
    assert not any(module._forward_hooks for module in observer.adapter.network.modules())
    assert not any(parameter.requires_grad for parameter in observer.adapter.network.parameters())
