"""The residual stream of a pre-norm ViT, centred and rotated: everything that writes to it and reads from it.

Writers are the patch embedding, tokens and position embedding in front of the patches, and the output projections of
attention and MLP: ``W <- W M R``, ``b <- b M R`` (rows are vectors of the stream). Readers stand behind a norm: qkv,
fc1 and the heads, which get R' from the left.
"""

from collections.abc import Iterator
from typing import Any

from timm.layers import LayerNorm, PatchEmbed
from timm.models.vision_transformer import Block, LayerScale, VisionTransformer
from torch import Tensor, nn

from lampq.errors import LampQError
from lampq.models.timm_adapters import head_sites
from lampq.transform.folding import in_float64
from lampq.transform.layernorm_folding import centred, fold_layer_scale, fold_layernorm
from lampq.transform.rotation_matrix import check_dimension, random_signs, rotated

TOKENS = ("cls_token", "dist_token", "reg_token", "pos_embed")
"""What a ViT adds to the stream besides patches, where it has it."""


FOLDED = (nn.LayerNorm, LayerNorm)
"""Classes whose function is known: a subclass may compute something else."""


def check_stream(name: str, network: VisionTransformer) -> None:
    """See that norms are where they can be folded, and that nothing else looks at single channels of the stream.

    Args:
        name: of the model, for the message.

    Raises:
        LampQError: names the first part that is otherwise.
    """
    check_dimension(f"the residual stream of {name}", network.embed_dim)
    for part, found, good in _parts(network):
        if not good:
            what = found if isinstance(found, str) else type(found).__name__
            raise LampQError(
                f"transform=hadamard: {part} of {name} is {what}, through which the residual stream cannot be rotated; "
                "choose transform.residual=false, or transform=none"
            )


def _parts(network: VisionTransformer) -> Iterator[tuple[str, Any, bool]]:
    """Parts that decide whether it can be done: name, what is there, whether it can."""
    embedding, nothing = network.patch_embed, (nn.Identity, type(None))
    yield "patch_embed", embedding, isinstance(embedding, PatchEmbed) and isinstance(embedding.proj, nn.Conv2d)
    for part, module in (("patch_embed.norm", embedding.norm), ("norm_pre", network.norm_pre)):
        yield part, module, type(module) in nothing
    for index, block in enumerate(network.blocks):
        yield f"blocks.{index}", block, type(block) is Block
        for part in ("norm1", "norm2"):
            yield f"blocks.{index}.{part}", (norm := getattr(block, part)), type(norm) in FOLDED
        for part in ("ls1", "ls2"):
            yield f"blocks.{index}.{part}", (scale := getattr(block, part)), type(scale) in (LayerScale, *nothing)
        yield f"blocks.{index}.attn.gate", block.attn.gate, type(block.attn.gate) in nothing
    yield "attn_pool", network.attn_pool, network.attn_pool is None
    yield "global_pool", network.global_pool, network.global_pool in ("token", "avg")
    norm, other = _last_norm(network)
    yield norm, network.get_submodule(norm), type(network.get_submodule(norm)) in FOLDED
    yield other, network.get_submodule(other), type(network.get_submodule(other)) in nothing
    yield "head", network.head, bool(head_sites(network))


def _last_norm(network: VisionTransformer) -> tuple[str, str]:
    """Which of the two norms behind the blocks is one, and the other."""
    pooled = isinstance(network.norm, nn.Identity) and not isinstance(network.fc_norm, nn.Identity)
    return ("fc_norm", "norm") if pooled else ("norm", "fc_norm")


def rotate_stream(network: VisionTransformer, *seed: int) -> None:
    """Fold every LayerNorm, centre and rotate what writes to the stream, rotate back what reads it.

    Args:
        seed: of the signs.
    """
    signs = random_signs((network.embed_dim,), *seed)

    def written(x: Tensor, axis: int = -1) -> Tensor:
        return rotated(centred(x, axis), signs, axis)

    def rows(x: Tensor) -> Tensor:
        return written(x, 0)

    def read(weight: Tensor) -> Tensor:
        return rotated(weight, signs)

    in_float64(network.patch_embed.proj, weight=rows, bias=rows)
    in_float64(network, **{token: written for token in TOKENS if getattr(network, token, None) is not None})
    for block in network.blocks:
        block.norm1 = fold_layernorm(block.norm1, [block.attn.qkv])
        block.norm2 = fold_layernorm(block.norm2, [block.mlp.fc1])
        for reader in (block.attn.qkv, block.mlp.fc1):
            in_float64(reader, weight=read)
        for scale, writer in (("ls1", block.attn.proj), ("ls2", block.mlp.fc2)):
            if isinstance(getattr(block, scale), LayerScale):
                setattr(block, scale, fold_layer_scale(getattr(block, scale), writer))
            in_float64(writer, weight=rows, bias=rows)
    norm, _ = _last_norm(network)
    heads = [network.get_submodule(site.name) for site in head_sites(network)]
    setattr(network, norm, fold_layernorm(network.get_submodule(norm), heads))
    for head in heads:
        in_float64(head, weight=read)
