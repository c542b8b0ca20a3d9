"""What the embedded models look like: the arguments of timm's classes, one constant for each model."""

from __future__ import annotations

from torch import nn

from lampq.errors import LampQError

MEAN = (0.47, 0.47, 0.47)
STD = (0.21, 0.21, 0.21)
"""Of pixels in [0, 1], red, green and blue, of the images that they were trained on."""
EMBEDDED = {
    # 8 blocks, 25 patches of 8 x 8 pixels and the class token.
    "shapes_vit": {
        "kind": "vit",
        "img_size": 40,
        "patch_size": 8,
        "num_classes": 100,
        "embed_dim": 96,
        "depth": 8,
        "num_heads": 3,
        "mlp_ratio": 4.0,
    },
    # Maps of 10 x 10, then 5 x 5 tokens in windows of 5 x 5: every second block of the first stage is shifted, and a
    # reduction joins the two stages.
    "shapes_swin": {
        "kind": "swin",
        "img_size": 40,
        "patch_size": 4,
        "window_size": 5,
        "num_classes": 100,
        "embed_dim": 64,
        "depths": (4, 2),
        "num_heads": (2, 4),
        "mlp_ratio": 4.0,
    },
}


def build_embedded(name: str) -> nn.Module:
    """The embedded model `name` with random weights: images `[images, 3, 40, 40]` to logits `[images, 100]`.

    Raises LampQError if there is no such model.
    """
    if name not in EMBEDDED:
        raise LampQError(f"model.name={name!r} is no embedded model: choose one of {', '.join(EMBEDDED)}")
    from timm.models import SwinTransformer, VisionTransformer

    arguments = dict(EMBEDDED[name])
    kinds = {"vit": VisionTransformer, "swin": SwinTransformer}
    return kinds[arguments.pop("kind")](**arguments)
