"""Random Hadamard rotations of the residual stream and of attention heads, folded into the weights.

The offline rotation of GLF-Q (arXiv 2609.34564), after QuaRot (Ashkboos et al., NeurIPS 2024) and SliceGPT (Ashkboos et
al., ICLR 2024), which turns LayerNorm into RMSNorm. It costs nothing when the model runs.
"""

from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.models.timm_adapters import VisionTransformerAdapter
from lampq.parts import setting
from lampq.transform.base import Transform
from lampq.transform.heads import attentions, check_heads, rotate_heads
from lampq.transform.residual_stream import check_stream, rotate_stream


class Hadamard(Transform):
    """Activations that are spread over all channels, so that none needs a range of its own.

    - The residual stream of a ViT: every LayerNorm becomes an RMSNorm without parameters, and what is written to the
      stream is rotated by R1. Swin and the backbones of detectors keep their stream and their LayerNorms: a patch
      merging reads channels of four tokens.
    - Each head of each attention: queries and keys by R2, values by R3.

    Folded in float64; the model's function stays what it is.

    Args:
        seed: of the random signs.
        residual: whether the residual stream of a ViT is rotated.
        heads: whether queries, keys and values are.

    Raises:
        LampQError: there is nothing left to rotate.
    """

    name = "hadamard"
    revision = 1

    seed: int = setting(0, minimum=0, maximum=2**32 - 1)
    residual: bool = True
    heads: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.residual or self.heads):
            raise LampQError(
                "transform.residual=false transform.heads=false: nothing is rotated; choose transform=none"
            )

    def change(self, adapter: ModelAdapter) -> None:
        """Rotate; everything is checked before anything is changed.

        Raises:
            LampQError: a dimension that there is no matrix for, or a part that a rotation does not pass through.
        """
        network = adapter.network
        stream = self.residual and isinstance(adapter, VisionTransformerAdapter)
        found = attentions(network) if self.heads else {}
        if not (stream or found):
            raise LampQError(
                f"transform.heads=false: nothing else can be rotated in {adapter.name}, whose residual stream is not "
                "that of a ViT; choose transform=none"
            )
        if stream:
            check_stream(adapter.name, network)
        for name, attention in found.items():
            check_heads(name, attention)
        if stream:
            rotate_stream(network, self.seed, 1)
        for index, attention in enumerate(found.values()):
            rotate_heads(attention, self.seed, 2, index)
