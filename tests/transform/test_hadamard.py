"""The transformed network computes what the original does, and is another one to quantize."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lampq.errors import LampQError
from lampq.models.embedded.embedded_classifier import EmbeddedClassifier
from lampq.models.timm_adapters import adapt
from lampq.transform.hadamard import Hadamard
from lampq.transform.none import NoTransform
from tests.small_models import VIT, VIT_SIDE, images, vision_transformer
from tests.transform.networks import NETWORKS, SWINS, adapted

CPU = torch.device("cpu")
EMBEDDED = {name: EmbeddedClassifier(name).build for name in ("shapes_vit", "shapes_swin")}


def built(kind):
    return EMBEDDED[kind](CPU) if kind in EMBEDDED else adapted(kind)


def difference(adapter, twin):
    """Largest difference of logits, relative to the largest logit."""
    pictures = images(adapter, 4)
    expected = adapter.run(pictures)
    return float((twin.run(pictures) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kind", [*NETWORKS, *EMBEDDED])
def test_the_function_stays_and_the_given_network_too(kind):
    adapter = built(kind)
    before, parameters = adapter.weights_hash(), list(adapter.network.parameters())
    twin = Hadamard().apply(adapter)
    assert difference(adapter, twin) < 1e-5
    assert adapter.weights_hash() == before and adapter.transform is None
    assert all(a is b for a, b in zip(adapter.network.parameters(), parameters, strict=True))
    assert [site.name for site in twin.sites] == [site.name for site in adapter.sites]
    assert not any(p.requires_grad for p in twin.network.parameters())


def weights(adapter):
    return {site.name: adapter.module(site.name).weight for site in adapter.sites if not site.is_matmul}


def changed(adapter, twin):
    """Types of the layers whose weights are others."""
    own, others = weights(adapter), weights(twin)
    return {adapter.site(name).type for name in own if not torch.allclose(own[name], others[name], atol=1e-3)}


@pytest.mark.parametrize(
    ("settings", "types"),
    [
        ({}, {"patch_embed", "qkv", "proj", "fc1", "fc2", "head"}),
        ({"residual": False}, {"qkv", "proj"}),
        ({"heads": False}, {"patch_embed", "qkv", "proj", "fc1", "fc2", "head"}),
    ],
    ids=["all", "heads", "residual stream"],
)
def test_which_layers_of_a_vit_are_rotated(settings, types):
    adapter = adapted("vit")
    twin = Hadamard(**settings).apply(adapter)
    assert changed(adapter, twin) == types
    rms = any(isinstance(module, nn.RMSNorm) for module in twin.network.modules())
    assert rms is settings.get("residual", True)


def test_every_setting_makes_another_network():
    adapter = adapted("vit")
    made = [Hadamard(**of).apply(adapter) for of in ({}, {"seed": 1}, {"residual": False}, {"heads": False})]
    assert len({adapter.weights_hash(), *(twin.weights_hash() for twin in made)}) == 5
    found = [twin.module("blocks.0.attn.qkv").weight for twin in (adapter, *made)]
    assert not any(torch.allclose(a, b, atol=1e-3) for i, a in enumerate(found) for b in found[:i])
    again = Hadamard(seed=1).apply(adapter)
    assert again.weights_hash() == made[1].weights_hash()
    assert torch.equal(again.module("blocks.0.attn.qkv").weight, made[1].module("blocks.0.attn.qkv").weight)


@pytest.mark.parametrize("kind", SWINS)
def test_a_swin_keeps_its_stream_and_its_layernorms(kind):
    adapter = adapted(kind)
    twin = Hadamard().apply(adapter)
    assert changed(adapter, twin) == {"qkv", "proj"}
    norms = [[type(m) for m in of.network.modules() if isinstance(m, nn.LayerNorm)] for of in (adapter, twin)]
    assert norms[0] == norms[1] and {site.fed_by for site in twin.sites} >= {"layernorm"}


def test_an_outlying_channel_is_none_any_more():
    adapter = adapted("vit")
    adapter.network.pos_embed.data[..., 5] += 30
    spread = [
        float(inputs.abs().max() / inputs.square().mean().sqrt())
        for inputs in (_input_of_qkv(of) for of in (adapter, Hadamard().apply(adapter)))
    ]
    assert spread[1] < 0.5 * spread[0]


def _input_of_qkv(adapter):
    seen = []
    handle = adapter.module("blocks.0.attn.qkv").register_forward_pre_hook(lambda m, given: seen.append(given[0]))
    adapter.run(images(adapter, 2))
    handle.remove()
    return seen[0]


def test_an_identity_only_where_something_is_changed():
    adapter = adapted("vit")
    assert NoTransform().apply(adapter) is adapter and NoTransform().identity is None
    twin = Hadamard(seed=7).apply(adapter)
    assert twin.transform == {"name": "hadamard", "revision": 1, "seed": 7, "residual": True, "heads": True}
    assert twin.clone().weights_hash() == twin.with_tensors().weights_hash() == twin.weights_hash()
    assert "transform" not in adapter.architecture and twin.architecture["transform"] == twin.transform


class Rectified(VisionTransformer):
    """Another pooling than timm's: it looks at channels one by one."""

    def pool(self, x, pool_type=None):
        return x[:, 0].relu()


def test_a_network_of_ones_own_that_looks_at_single_channels_is_refused():
    network = Rectified(**VIT, depth=1)
    network.load_state_dict(vision_transformer(1).state_dict())
    adapter = adapt("own", network.eval(), input_size=(3, VIT_SIDE, VIT_SIDE))
    with pytest.raises(LampQError, match=r"^transform=hadamard: own computes something else .*transform=none$"):
        Hadamard().apply(adapter)
    assert Hadamard(residual=False).apply(adapter)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("vit", {"residual": False, "heads": False}, r"nothing is rotated; choose transform=none$"),
        ("swin", {"heads": False}, r"nothing else can be rotated in swin, .*choose transform=none$"),
    ],
)
def test_nothing_to_rotate_is_refused_in_one_line(kind, settings, words):
    with pytest.raises(LampQError, match=words) as caught:
        Hadamard(**settings).apply(adapted(kind))
    assert "\n" not in str(caught.value)
