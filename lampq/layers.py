"""Quantized sites: what there is to quantize in a Vision Transformer, and what each piece costs.

A *site* is one place where a multiplication with low-bit operands happens: the four linear layers of a block
(the 4N *layers* of the paper, the only ones whose bits are allocated), the two attention matmuls of a block,
and, outside the blocks, patch embedding, classifier head and Swin's patch-merging reductions.
"""

from dataclasses import dataclass

LAYER_TYPES = ("qkv", "proj", "fc1", "fc2")
"""The four layer types t of the paper, in the order of execution inside a block."""

MATMUL_TYPES = ("qk", "pv")
"""Attention matmuls: queries times keys, and attention probabilities times values."""

MODULES = {"MSA": ("qkv", "qk", "pv", "proj"), "MLP": ("fc1", "fc2")}
"""The two modules of a block: a module is its two layers and, in the MSA, the operands of its matmuls."""

OUTSIDE_TYPES = ("patch_embed", "reduction", "head")
"""Weight layers outside the 4N: kept at `fixed_site_bits`."""

AFTER_LAYERNORM = ("qkv", "fc1", "reduction")
"""Types whose input comes straight from a LayerNorm, so that its scale can be reparameterized into the layer."""


@dataclass(frozen=True)
class Site:
    """One quantized site of a model.

    Attributes:
        name: module path inside the network, for example ``blocks.0.attn.qkv``.
        type: one of `LAYER_TYPES`, `MATMUL_TYPES`, `OUTSIDE_TYPES`.
        block: index of the block that runs it (a reduction runs with the block after it); None for stem and head.
        parameters: number of weights (biases not counted), c_i of the paper; 0 for a matmul.
        macs: multiply-accumulate operations for one image.
        input_elements: elements of the (first) input operand for one image.
        second_input_elements: elements of the second operand of a matmul for one image, else 0.
    """

    name: str
    type: str
    block: int | None
    parameters: int
    macs: int
    input_elements: int
    second_input_elements: int = 0

    @property
    def allocated(self) -> bool:
        """Whether the site is one of the 4N layers whose bits an allocator chooses."""
        return self.type in LAYER_TYPES

    @property
    def is_matmul(self) -> bool:
        return self.type in MATMUL_TYPES

    @property
    def after_layernorm(self) -> bool:
        return self.type in AFTER_LAYERNORM
