"""What every adapter does: copies that share tensors, a hash of the weights, modules put in place of others."""

import pytest
import torch
from torch import nn

from lampq.quantized_modules.matmul import MatMul
from tests.small_models import distilled_adapter, images, swin_adapter, vision_transformer, vit_adapter

ADAPTERS = {"vit": vit_adapter, "distilled": distilled_adapter, "swin": swin_adapter}


@pytest.fixture(params=ADAPTERS)
def adapter(request):
    return ADAPTERS[request.param]()


def test_a_clone_shares_every_tensor_and_no_module(adapter):
    twin = adapter.clone()
    mine, theirs = dict(adapter.network.named_parameters()), dict(twin.network.named_parameters())
    assert mine.keys() == theirs.keys() and all(mine[name] is theirs[name] for name in mine)
    buffers, their_buffers = dict(adapter.network.named_buffers()), dict(twin.network.named_buffers())
    assert buffers.keys() == their_buffers.keys()
    assert all(buffers[name] is their_buffers[name] for name in buffers)
    assert not {id(m) for m in adapter.network.modules()} & {id(m) for m in twin.network.modules()}
    pictures = images(adapter, 2)
    assert torch.equal(adapter.run(pictures), twin.run(pictures))


def test_what_is_put_into_a_clone_stays_out_of_the_original(adapter):
    class Nothing(nn.Module):
        def forward(self, *operands):
            return torch.zeros_like(original(*operands))

    pictures, twin = images(adapter, 2), adapter.clone()
    before = adapter.run(pictures)
    for site in adapter.sites:
        original = twin.module(site.name)
        twin.replace_module(site.name, Nothing())
        assert isinstance(twin.module(site.name), Nothing)
        assert adapter.module(site.name) is not twin.module(site.name)
        assert not torch.equal(twin.run(pictures), before), f"{site.name} is not in the path"
        twin.replace_module(site.name, original)
    assert torch.equal(adapter.run(pictures), before) and torch.equal(twin.run(pictures), before)


def test_matmuls_are_modules_of_their_own(adapter):
    for site in adapter.sites:
        assert isinstance(adapter.module(site.name), MatMul) == site.is_matmul
        assert adapter.site(site.name) is site


def test_the_network_is_frozen_and_in_evaluation_mode(adapter):
    assert not any(p.requires_grad for p in adapter.network.parameters())
    assert not any(module.training for module in adapter.network.modules())


def test_the_hash_follows_every_weight():
    first = vit_adapter()
    assert first.weights_hash() == vit_adapter().weights_hash() == first.clone().weights_hash()
    assert len({first.weights_hash(), vit_adapter(seed=1).weights_hash(), vit_adapter(blocks=2).weights_hash()}) == 3
    before = first.weights_hash()
    for parameter in first.network.parameters():
        value = parameter.view(-1)[0].item()
        parameter.view(-1)[0] = value + 1e-3
        assert first.weights_hash() != before
        parameter.view(-1)[0] = value
    assert first.weights_hash() == before


def test_all_parameters_are_counted(adapter):
    count = sum(p.numel() for p in adapter.network.state_dict().values())
    assert adapter.parameters() == count
    assert vit_adapter().parameters() == sum(p.numel() for p in vision_transformer().parameters())
