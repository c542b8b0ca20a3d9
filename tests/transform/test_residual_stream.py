"""The residual stream of a ViT is centred and rotated; what is read from it is what it was."""

import pytest
import torch
from timm.models.vision_transformer import ResPostBlock
from torch import nn

from lampq.errors import LampQError
from lampq.models.timm_adapters import adapt
from lampq.transform.hadamard import Hadamard
from lampq.transform.layernorm_folding import centred
from lampq.transform.rotation_matrix import random_signs, rotated
from tests.small_models import VIT_SIDE, images, vision_transformer
from tests.transform.networks import VITS, adapted

STREAM = Hadamard(seed=3, heads=False)


@pytest.mark.parametrize("kind", VITS)
def test_every_state_is_the_original_one_centred_and_rotated(kind):
    adapter = adapted(kind)
    twin, pictures = STREAM.apply(adapter), images(adapter, 2)
    signs = random_signs((24,), 3, 1)
    for stop in range(1, adapter.blocks + 2):
        before, after = (of.run(pictures, stop=stop).double() for of in (adapter, twin))
        torch.testing.assert_close(after, rotated(centred(before), signs), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(after, before, atol=1e-2)


@pytest.mark.parametrize("kind", VITS)
def test_layernorms_become_rmsnorms_without_parameters_and_layer_scales_go(kind):
    adapter = STREAM.apply(adapted(kind))
    classes = {type(module) for module in adapter.network.modules()}
    assert nn.RMSNorm in classes and not any(issubclass(of, nn.LayerNorm) for of in classes)
    assert not [name for name, _ in adapter.network.named_parameters() if "norm" in name or ".ls" in name]


REFUSED = {
    "norm_pre of small is LayerNorm": {"pre_norm": True},
    "blocks.0 of small is ResPostBlock": {"block_fn": ResPostBlock},
    "blocks.0.norm1 of small is RMSNorm": {"norm_layer": nn.RMSNorm},
    "patch_embed.norm of small is LayerNorm": {"embed_norm_layer": nn.LayerNorm},
    "attn_pool of small is AttentionPoolLatent": {"global_pool": "map"},
    "global_pool of small is max": {"global_pool": "max"},
    "norm of small is Identity": {"final_norm": False},
    "the residual stream of small has 60 channels": {"embed_dim": 60},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_folded_is_refused_by_name(words):
    network = vision_transformer(1, **REFUSED[words])
    adapter = adapt("small", network, input_size=(3, VIT_SIDE, VIT_SIDE))
    before = adapter.weights_hash()
    with pytest.raises(LampQError, match=rf"^transform=hadamard: {words}.*transform=none$") as caught:
        STREAM.apply(adapter)
    assert "\n" not in str(caught.value) and adapter.weights_hash() == before
