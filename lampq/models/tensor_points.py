"""Points of a network at which a tensor can be quantized by itself, and not as an operand of a product.

Each point is a module that hands its input on, so that it can be found by name and replaced like a layer. timm's
networks have none: their blocks are extended here, in place, and compute what they computed before.
"""

import torch
from timm.layers import PatchEmbed
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from lampq.errors import LampQError


class BlockWithTensors(Block):
    """timm's ViT block with points behind the MLP and behind the two residual sums."""

    def forward(self, x: Tensor) -> Tensor:
        """``[images, tokens, channels] -> [images, tokens, channels]``"""
        x = self.attention_sum(x + self.drop_path1(self.ls1(self.attn(self.norm1(x)))))
        return self.mlp_sum(x + self.drop_path2(self.ls2(self.fc2_output(self.mlp(self.norm2(x))))))


class SwinBlockWithTensors(SwinTransformerBlock):
    """timm's Swin block with points behind the MLP and behind the two residual sums."""

    def forward(self, x: Tensor) -> Tensor:
        """``[images, height, width, channels] -> [images, height, width, channels]``"""
        x = self.attention_sum(x + self.drop_path1(self._attn(self.norm1(x))))
        # As timm does, the MLP sees a row of tokens.
        tokens = x.flatten(1, 2)
        tokens = self.mlp_sum(tokens + self.drop_path2(self.fc2_output(self.mlp(self.norm2(tokens)))))
        return tokens.view(x.shape)


def add_points(name: str, network: VisionTransformer | SwinTransformer) -> None:
    """Give a network points at its stem and tail (``tensors.*``) and in its blocks; their attention has its own.

    Args:
        name: what the model is called, for the message.
        network: an adapted network, explicit attention in its blocks; changed.

    Raises:
        LampQError: a patch embedding or a block of another kind.
    """
    extended = {Block: BlockWithTensors, SwinTransformerBlock: SwinBlockWithTensors}
    swin = isinstance(network, SwinTransformer)
    blocks = [block for stage in network.layers for block in stage.blocks] if swin else list(network.blocks)
    for part in (network.patch_embed, *blocks):
        if type(part) not in (PatchEmbed, *extended):
            raise LampQError(
                f"model.name={name}: tensors beside a {type(part).__name__} cannot be quantized by themselves; choose "
                "another base_quantizer, or a plain ViT, DeiT or Swin"
            )
    if getattr(network, "dynamic_img_size", False):
        raise LampQError(f"model.name={name}: images of any size go with other base quantizers only; fix its size")
    network.tensors = nn.ModuleDict({point: nn.Identity() for point in _outside_the_blocks(network)})
    for block in blocks:
        block.__class__ = extended[type(block)]
        for point in ("attention_sum", "fc2_output", "mlp_sum"):
            block.add_module(point, nn.Identity())
    for stage in network.layers if swin else ():
        if hasattr(stage.downsample, "reduction"):
            stage.reduction_output = nn.Identity()


def _outside_the_blocks(network: VisionTransformer | SwinTransformer) -> list[str]:
    """Types of tensors of stem and tail in the order of execution."""
    if isinstance(network, SwinTransformer):
        return ["image", "patches", "embedding", "features", "logits"]
    tokens = ["tokens"] if network.num_prefix_tokens else []
    positions = [] if network.pos_embed is None else ["position_embedding", "embedding"]
    order = [*positions, *tokens] if network.no_embed_class else [*tokens, *positions]
    return ["image", "patches", *order, "logits"]


def embed_patches(network: VisionTransformer | SwinTransformer, images: Tensor) -> Tensor:
    """timm's patch embedding with points before and behind its convolution.

    Args:
        images: ``[images, channels, height, width]``.

    Returns:
        ``[images, patches, channels]``, for Swin ``[images, height, width, channels]``.
    """
    embedding = network.patch_embed
    x = network.tensors["patches"](embedding.proj(network.tensors["image"](images)))
    return embedding.norm(x.flatten(2).transpose(1, 2) if embedding.flatten else x.permute(0, 2, 3, 1))


def embed_positions(network: VisionTransformer, patches: Tensor) -> Tensor:
    """Class, distillation and register tokens put in front and the position embedding added, with a point each.

    Args:
        patches: ``[images, patches, channels]``.

    Returns:
        ``[images, tokens, channels]``
    """
    points = network.tensors
    extra = [getattr(network, token, None) for token in ("cls_token", "dist_token", "reg_token")]
    extra = [token.expand(patches.shape[0], -1, -1) for token in extra if token is not None]

    def with_tokens(x: Tensor) -> Tensor:
        return points["tokens"](torch.cat([*extra, x], dim=1)) if extra else x

    def with_positions(x: Tensor) -> Tensor:
        if network.pos_embed is None:
            return x
        return points["embedding"](x + points["position_embedding"](network.pos_embed))

    return with_tokens(with_positions(patches)) if network.no_embed_class else with_positions(with_tokens(patches))
