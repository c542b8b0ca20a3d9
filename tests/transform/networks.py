"""Small networks of every kind that a transform meets: random gammas, betas and biases."""

from lampq.models.adapter import ModelAdapter
from lampq.models.timm_adapters import adapt
from tests.small_models import SWIN_SIDE, VIT_SIDE, distilled, swin, vision_transformer

VITS = {
    "vit": vision_transformer,
    "distilled": distilled,
    "layer scale": lambda: vision_transformer(2, init_values=0.5),
    "registers without positions": lambda: vision_transformer(2, reg_tokens=2, no_embed_class=True),
    "mean pooling": lambda: vision_transformer(2, class_token=False, global_pool="avg"),
    "mean pooling behind the norm": lambda: vision_transformer(2, global_pool="avg", fc_norm=False),
    "no biases": lambda: vision_transformer(2, qkv_bias=False, proj_bias=False),
    "no position embedding": lambda: vision_transformer(2, pos_embed="none"),
}
SWINS = {"swin": swin, "swin without biases": lambda: swin(qkv_bias=False)}
NETWORKS = VITS | SWINS


def adapted(kind: str) -> ModelAdapter:
    """The adapter of one of them."""
    side = SWIN_SIDE if kind in SWINS else VIT_SIDE
    return adapt(kind, NETWORKS[kind](), input_size=(3, side, side))
