"""Quantized sites: what there is to quantize in a Vision Transformer, and what each piece costs.

A *site* is one place where a multiplication with low-bit operands happens: the four linear layers of a block
(the 4N *layers* of the paper, the only ones whose bits are allocated), the two attention matmuls of a block,
and, outside the blocks, patch embedding, classifier head and Swin's patch-merging reductions. Where a base quantizer
quantizes other tensors too (the image, residual sums, outputs of layers), each of them is a site as well.
"""

from dataclasses import dataclass

LAYER_TYPES = ("qkv", "proj", "fc1", "fc2")
"""The four layer types t of the paper, in the order of execution inside a block."""

MATMUL_TYPES = ("qk", "pv")
"""Attention matmuls: queries times keys, and attention probabilities times values."""

MODULES = {"MSA": ("qkv", "qk", "pv", "proj"), "MLP": ("fc1", "fc2")}
"""The two modules of a block: a module is its two layers and, in the MSA, the operands of its matmuls."""

DETECTOR_TYPES = ("neck", "rpn", "roi")
"""Convolutions and linear layers of a detector behind its backbone: neck, region proposals, heads of regions."""

OUTSIDE_TYPES = ("patch_embed", "reduction", "head", *DETECTOR_TYPES)
"""Weight layers outside the 4N: kept at `fixed_site_bits`."""

STEM_TENSORS = ("image", "patches", "tokens", "position_embedding", "embedding")
"""Tensors of the stem: the image, the patch embedding's output, the same with the class token, the position embedding,
and their sum (Swin: the patch embedding's output after its LayerNorm)."""

BLOCK_TENSORS = (
    "reduction_output",
    "qkv_output",
    "position_bias",
    "biased_scores",
    "proj_output",
    "attention_sum",
    "fc2_output",
    "mlp_sum",
)
"""Tensors of a block: outputs of its layers (and of the patch merging before it), Swin's table of relative position
biases and the attention scores after adding them, and the two residual sums."""

TAIL_TENSORS = ("features", "logits")
"""Tensors behind the blocks: the last LayerNorm's output where it is pooled afterwards (Swin), and the logits."""

ALLOCATE = {
    "layers": LAYER_TYPES,
    "layers_and_operands": (*LAYER_TYPES, *MATMUL_TYPES),
    "all": (*LAYER_TYPES, *MATMUL_TYPES, *OUTSIDE_TYPES),
}
"""What bits may be chosen for, by types of sites: the paper's 4N layers; the attention matmuls too; patch embedding,
reductions, head and a detector's other parts as well."""

TENSOR_TYPES = (*STEM_TENSORS, *BLOCK_TENSORS, *TAIL_TENSORS)
"""Tensors that no product reads as they are. Sites of a model only where the base quantizer quantizes them."""

USUALLY_FED_BY = {"qkv": "layernorm", "proj": "other", "fc1": "layernorm", "fc2": "gelu", "reduction": "layernorm"}
"""What feeds these layers in ViT, DeiT and Swin; what feeds those of a model is found in a run of it."""


@dataclass(frozen=True)
class Site:
    """One quantized site of a model.

    Attributes:
        name: module path inside the network, for example ``blocks.0.attn.qkv``.
        type: one of `LAYER_TYPES`, `MATMUL_TYPES`, `OUTSIDE_TYPES`, `TENSOR_TYPES`.
        block: index of the block that runs it (a reduction runs with the block after it); None for stem and head.
        parameters: number of weights (biases not counted), c_i of the paper; 0 for a matmul or a tensor.
        macs: multiply-accumulate operations for one image.
        input_elements: elements of the (first) input operand for one image.
        second_input_elements: elements of the second operand of a matmul for one image, else 0.
        fed_by: what the (first) input is, as it was seen in a run of the model: ``layernorm``, ``gelu``, ``softmax``,
            or ``other`` (`lampq.models.feeds`).
    """

    name: str
    type: str
    block: int | None
    parameters: int
    macs: int
    input_elements: int
    second_input_elements: int = 0
    fed_by: str = "other"

    @property
    def allocated(self) -> bool:
        """Whether the site is one of the 4N layers whose bits an allocator chooses."""
        return self.type in LAYER_TYPES

    @property
    def sees_rows(self) -> bool:
        """Whether the layer runs several times on maps or regions of any number and size, and is therefore calibrated
        as a linear layer on rows: what each of its outputs is made of (`lampq.calibration.rows`)."""
        return self.type in DETECTOR_TYPES

    @property
    def is_matmul(self) -> bool:
        return self.type in MATMUL_TYPES

    @property
    def is_tensor(self) -> bool:
        """Whether the site is a tensor by itself, which is quantized and passed on."""
        return self.type in TENSOR_TYPES

    @property
    def after_layernorm(self) -> bool:
        """Whether the layer alone reads a LayerNorm's output, whose channels can be reparameterized into both."""
        return self.fed_by == "layernorm" and self.type in USUALLY_FED_BY

    @property
    def after_gelu(self) -> bool:
        """Whether the layer reads what a GELU gives, as it is."""
        return self.fed_by == "gelu" and self.type in USUALLY_FED_BY


def module_of(site: Site) -> str:
    """What the module of a layer or of an attention matmul is called: ``0 MSA``; a site of a plan will do."""
    return f"{site.block} {next(name for name, types in MODULES.items() if site.type in types)}"
