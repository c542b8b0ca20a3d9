"""Names of the classes that a classifier tells apart, where they are known."""

from lampq.models.adapter import ModelAdapter

IMAGENET = 1000
"""Classes of ImageNet-1k."""


def class_names(adapter: ModelAdapter) -> list[str] | None:
    """Of a classifier of timm with ImageNet's classes, in the order of its logits; else None."""
    if adapter.architecture["library"] != "timm" or adapter.classes != IMAGENET:
        return None
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return [info.index_to_description(index) for index in range(IMAGENET)]
