"""timm's VisionTransformer and SwinTransformer as segments with typed sites."""

from itertools import chain

from torch import Tensor, nn

from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter, declared
from lampq.plan.sites import STEM_TENSORS, Site
from lampq.quantized_modules.attention import ExplicitAttention, ExplicitWindowAttention


def block_sites(prefix: str, block: int, window: bool, tensors: bool) -> list[Site]:
    """Sites of one transformer block in timm's names, in the order of execution.

    Args:
        prefix: the block's module path.
        block: its index.
        window: whether its attention adds relative position biases to the scores.
        tensors: whether tensors are sites too.
    """
    biases = ["attn.position_bias", "attn.biased_scores"] if window else []
    names = ["attn.qkv", "attn.qkv_output", "attn.qk", *biases, "attn.pv", "attn.proj", "attn.proj_output"]
    names += ["attention_sum", "mlp.fc1", "mlp.fc2", "fc2_output", "mlp_sum"]
    sites = [declared(f"{prefix}.{name}", name.rpartition(".")[2], block) for name in names]
    return [site for site in sites if tensors or not site.is_tensor]


def outside_sites(network: nn.Module, inner: list[Site]) -> list[Site]:
    """All sites in the order of execution: those of the blocks, `inner`, between those of stem and tail; tensors among
    them where the network has points for them."""
    points = list(getattr(network, "tensors", {}))

    def tensors(*types: str) -> list[Site]:
        return [declared(f"tensors.{type}", type) for type in points if type in types]

    stem = [*tensors("image"), *stem_sites(network), *tensors(*STEM_TENSORS[1:])]
    return [*stem, *inner, *tensors("features"), *head_sites(network), *tensors("logits")]


def stem_sites(network: nn.Module) -> list[Site]:
    """The patch embedding's convolution, where it reads the image. Behind another stem (that of a hybrid) it does not:
    the stem then stays in full precision as a whole."""
    from timm.layers import PatchEmbed

    plain = isinstance(network.patch_embed, PatchEmbed) and isinstance(network.patch_embed.proj, nn.Conv2d)
    return [declared("patch_embed.proj", "patch_embed")] if plain else []


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
            if type(block.attn) is not Attention:
                raise LampQError(
                    f"model.name={name}: {type(block.attn).__name__} of block {index} is not supported; choose a model "
                    "with ordinary softmax attention"
                )
            block.attn = ExplicitAttention(block.attn)
        super().__init__(name, network, *args, **kwargs)

    @property
    def blocks(self) -> int:
        return len(self.network.blocks)

    @property
    def prefix_tokens(self) -> int:
        return self.network.num_prefix_tokens

    def declare_sites(self) -> list[Site]:
        blocks = [block_sites(f"blocks.{index}", index, False, self.tensors) for index in range(self.blocks)]
        return outside_sites(self.network, list(chain.from_iterable(blocks)))

    def add_points(self) -> None:
        from lampq.models.tensor_points import add_points

        add_points(self.name, self.network)

    def run_segment(self, index: int, state: Tensor) -> Tensor:
        network = self.network
        if index == 0:
            embedded = self._embed(state) if self.tensors else network._pos_embed(network.patch_embed(state))
            return network.norm_pre(network.patch_drop(embedded))
        if index <= self.blocks:
            return network.blocks[index - 1](state)
        logits = network.forward_head(network.norm(state))
        return network.tensors["logits"](logits) if self.tensors else logits

    def penultimate(self, state: Tensor) -> Tensor:
        return self.network.forward_head(self.network.norm(state), pre_logits=True)

    def _embed(self, images: Tensor) -> Tensor:
        from lampq.models.tensor_points import embed_patches, embed_positions

        return embed_positions(self.network, embed_patches(self.network, images))


class SwinTransformerAdapter(ModelAdapter):
    """timm's `SwinTransformer`: blocks of all stages in one row; a patch merging runs with the block after it."""

    windows = True

    def __init__(self, name: str, network: nn.Module, *args, **kwargs) -> None:
        from timm.models.swin_transformer import WindowAttention

        for stage in network.layers:
            for block in stage.blocks:
                if type(block.attn) is not WindowAttention:
                    raise LampQError(
                        f"model.name={name}: {type(block.attn).__name__} is not supported; choose a model with Swin's "
                        "own window attention"
                    )
                block.attn = ExplicitWindowAttention(block.attn)
        self._places = [(s, b) for s, stage in enumerate(network.layers) for b in range(len(stage.blocks))]
        super().__init__(name, network, *args, **kwargs)

    @property
    def blocks(self) -> int:
        return len(self._places)

    def declare_sites(self) -> list[Site]:
        sites = []
        for index, (stage, block) in enumerate(self._places):
            if block == 0 and hasattr(self.network.layers[stage].downsample, "reduction"):
                sites.append(declared(f"layers.{stage}.downsample.reduction", "reduction", index))
                if self.tensors:
                    sites.append(declared(f"layers.{stage}.reduction_output", "reduction_output", index))
            sites += block_sites(f"layers.{stage}.blocks.{block}", index, True, self.tensors)
        return outside_sites(self.network, sites)

    def add_points(self) -> None:
        from lampq.models.tensor_points import add_points

        add_points(self.name, self.network)

    def run_segment(self, index: int, state: Tensor) -> Tensor:
        network = self.network
        if index == 0:
            return self._embed(state) if self.tensors else network.patch_embed(state)
        if index > self.blocks:
            return self._classify(state) if self.tensors else network.forward_head(network.norm(state))
        stage, block = self._places[index - 1]
        layer = network.layers[stage]
        if block == 0:
            state = layer.downsample(state)
            if hasattr(layer, "reduction_output"):
                state = layer.reduction_output(state)
        return layer.blocks[block](state)

    def penultimate(self, state: Tensor) -> Tensor:
        return self.network.forward_head(self.network.norm(state), pre_logits=True)

    def _embed(self, images: Tensor) -> Tensor:
        from lampq.models.tensor_points import embed_patches

        return self.network.tensors["embedding"](embed_patches(self.network, images))

    def _classify(self, state: Tensor) -> Tensor:
        points = self.network.tensors
        return points["logits"](self.network.forward_head(points["features"](self.network.norm(state))))


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
