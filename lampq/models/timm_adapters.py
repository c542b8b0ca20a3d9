"""timm's VisionTransformer and SwinTransformer as segments with typed sites."""

from torch import Tensor, nn

from lampq.errors import LampQError
from lampq.layers import Site
from lampq.models.adapter import ModelAdapter, declared
from lampq.quantized_modules.attention import ExplicitAttention, ExplicitWindowAttention


def block_sites(prefix: str, block: int) -> list[Site]:
    """Sites of one transformer block in timm's names, in the order of execution."""
    names = [("attn.qkv", "qkv"), ("attn.qk", "qk"), ("attn.pv", "pv"), ("attn.proj", "proj")]
    names += [("mlp.fc1", "fc1"), ("mlp.fc2", "fc2")]
    return [declared(f"{prefix}.{name}", type, block) for name, type in names]


def head_sites(network: nn.Module) -> list[Site]:
    """Classifier heads: the linear layers that timm calls the classifier (two for a distilled DeiT)."""
    heads = [name for name in ("head", "head_dist", "head.fc") if _is_linear(network, name)]
    return [declared(name, "head") for name in heads]


def _is_linear(network: nn.Module, name: str) -> bool:
    try:
        return isinstance(network.get_submodule(name), nn.Linear)
    except AttributeError:
        return False


class VisionTransformerAdapter(ModelAdapter):
    """ViT, DeiT and any other timm `VisionTransformer` whose blocks have qkv, proj, fc1 and fc2."""

    def __init__(self, name: str, network: nn.Module, *args, **kwargs) -> None:
        from timm.layers import Attention

        for index, block in enumerate(network.blocks):
            for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
                if not _is_linear(block, part):
                    raise LampQError(
                        f"model.name={name}: block {index} has no linear layer {part}; choose a model with qkv, proj, "
                        "fc1 and fc2 in every block"
                    )
            if not isinstance(block.attn, Attention):
                raise LampQError(
                    f"model.name={name}: {type(block.attn).__name__} of block {index} is not supported; choose a model "
                    "with ordinary softmax attention"
                )
            block.attn = ExplicitAttention(block.attn)
        super().__init__(name, network, *args, **kwargs)

    @property
    def blocks(self) -> int:
        return len(self.network.blocks)

    def declare_sites(self) -> list[Site]:
        sites = [declared("patch_embed.proj", "patch_embed")]
        for index in range(self.blocks):
            sites += block_sites(f"blocks.{index}", index)
        return sites + head_sites(self.network)

    def run_segment(self, index: int, state: Tensor) -> Tensor:
        network = self.network
        if index == 0:
            return network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(state))))
        if index <= self.blocks:
            return network.blocks[index - 1](state)
        return network.forward_head(network.norm(state))


class SwinTransformerAdapter(ModelAdapter):
    """timm's `SwinTransformer`: blocks of all stages in one row; a patch merging runs with the block after it."""

    def __init__(self, name: str, network: nn.Module, *args, **kwargs) -> None:
        for stage in network.layers:
            for block in stage.blocks:
                block.attn = ExplicitWindowAttention(block.attn)
        self._places = [(s, b) for s, stage in enumerate(network.layers) for b in range(len(stage.blocks))]
        super().__init__(name, network, *args, **kwargs)

    @property
    def blocks(self) -> int:
        return len(self._places)

    def declare_sites(self) -> list[Site]:
        sites = [declared("patch_embed.proj", "patch_embed")]
        for index, (stage, block) in enumerate(self._places):
            if block == 0 and hasattr(self.network.layers[stage].downsample, "reduction"):
                sites.append(declared(f"layers.{stage}.downsample.reduction", "reduction", index))
            sites += block_sites(f"layers.{stage}.blocks.{block}", index)
        return sites + head_sites(self.network)

    def run_segment(self, index: int, state: Tensor) -> Tensor:
        network = self.network
        if index == 0:
            return network.patch_embed(state)
        if index > self.blocks:
            return network.forward_head(network.norm(state))
        stage, block = self._places[index - 1]
        layer = network.layers[stage]
        if block == 0:
            state = layer.downsample(state)
        return layer.blocks[block](state)


def adapt(name: str, network: nn.Module, **kwargs) -> ModelAdapter:
    """The adapter for a timm network.

    Raises:
        LampQError: neither a VisionTransformer nor a SwinTransformer of timm.
    """
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    if isinstance(network, VisionTransformer):
        return VisionTransformerAdapter(name, network, **kwargs)
    if isinstance(network, SwinTransformer):
        return SwinTransformerAdapter(name, network, **kwargs)
    raise LampQError(
        f"model.name={name}: {type(network).__name__} is not supported; choose a VisionTransformer or SwinTransformer "
        "of timm (vit_*, deit_*, swin_*)"
    )
