"""Queries, keys and values are rotated; scores and what the attention gives are not."""

import pytest
import torch
from timm.layers import Attention
from timm.models.swin_transformer import WindowAttention
from torch import nn

from lampq.errors import LampQError
from lampq.quantized_modules.attention import ExplicitAttention, ExplicitWindowAttention
from lampq.transform.heads import check_heads, rotate_heads

MADE = {
    "vit": lambda **of: ExplicitAttention(Attention(24, 3, **{"qkv_bias": True, **of})),
    "swin": lambda **of: ExplicitWindowAttention(WindowAttention(24, 3, window_size=2, **of)),
}


def attention(kind, **of):
    module = MADE[kind](**of).eval().double().requires_grad_(False)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def operands(module, x):
    """What the two products are fed, and what comes out."""
    seen = []
    handles = [
        m.register_forward_hook(lambda m, given, out: seen.append((*given, out))) for m in (module.qk, module.pv)
    ]
    out = module(x)
    for handle in handles:
        handle.remove()
    return seen, out


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", MADE)
def test_scores_and_output_stay_and_operands_do_not(kind, bias):
    module, x = attention(kind, qkv_bias=bias), torch.randn(2, 4, 24, dtype=torch.float64)
    ((q, k, scores), (p, v, of_heads)), out = operands(module, x)
    rotate_heads(module, 0)
    ((q_after, k_after, scores_after), (p_after, v_after, of_heads_after)), out_after = operands(module, x)
    for after, before in ((scores_after, scores), (p_after, p), (out_after, out)):
        torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)
    for after, before in ((q_after, q), (k_after, k), (v_after, v), (of_heads_after, of_heads)):
        assert not torch.allclose(after, before)
        axis = -2 if before is k else -1  # keys come transposed
        torch.testing.assert_close(after.norm(dim=axis), before.norm(dim=axis), rtol=1e-10, atol=1e-10)


def test_each_head_has_signs_of_its_own_from_the_seed():
    found = []
    for seed in (0, 0, 1):
        module = attention("vit")
        module.qkv.weight = nn.Parameter(torch.eye(72, 24, dtype=torch.float64), requires_grad=False)
        rotate_heads(module, seed)
        found.append(module.qkv.weight[:24].reshape(3, 8, 24))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    blocks = [found[0][head, :, 8 * head : 8 * (head + 1)] for head in range(3)]
    assert not torch.equal(blocks[0], blocks[1]) and all(
        float(block.norm()) == pytest.approx(8**0.5) for block in blocks
    )


@pytest.mark.parametrize(
    ("of", "part"),
    [
        ({"qk_norm": True, "norm_layer": nn.LayerNorm}, "q_norm"),
        ({"scale_norm": True, "norm_layer": nn.LayerNorm}, "norm"),
    ],
)
def test_what_a_rotation_does_not_pass_through_is_refused_by_name(of, part):
    message = rf"^transform=hadamard: blocks.3.attn has a {part}, .*choose transform.heads=false, or transform=none$"
    with pytest.raises(LampQError, match=message):
        check_heads("blocks.3.attn", attention("vit", **of))


def test_a_width_without_a_matrix_is_refused_by_name():
    with pytest.raises(LampQError, match=r"a head of blocks.0.attn has 20 channels"):
        check_heads("blocks.0.attn", ExplicitAttention(Attention(60, 3)))
