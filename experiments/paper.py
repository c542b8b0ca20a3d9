"""What the paper printed, for the column beside ours; never used in its place."""

import csv
from importlib import resources

COLUMNS = {
    "vit_small_patch16_224": "ViT-S",
    "vit_base_patch16_224": "ViT-B",
    "deit_tiny_patch16_224": "DeiT-T",
    "deit_small_patch16_224": "DeiT-S",
    "deit_base_patch16_224": "DeiT-B",
    "swin_small_patch4_window7_224": "Swin-S",
    "swin_base_patch4_window7_224": "Swin-B",
}
"""timm's architecture -> column of table 3."""

BASE_QUANTIZERS = {"adalog": "AdaLog"}
"""Base quantizer of a uniform run -> row of table 3."""


def table(number: int) -> list[dict[str, str]]:
    """Rows of a table as printed."""
    path = resources.files(__package__) / "published" / f"table{number}.csv"
    return list(csv.DictReader(path.read_text().splitlines()))


def published_top1(model: str, base_quantizer: str, allocator: str, weight_bits: float) -> float | None:
    """Top-1 of table 3 (percent, full validation set) for a run, or None where the paper has no such cell.

    Args:
        model: timm's name, with or without weight tag.
        base_quantizer, allocator: names of the parts; ``full_precision`` is the table's first row.
        weight_bits: b_t; weights and activations alike.
    """
    column = COLUMNS.get(model.partition(".")[0])
    if column is None:
        return None
    bits = f"{weight_bits:g}"
    if base_quantizer == "full_precision":
        wanted = ("Full-Precision", "32/32")
    elif allocator == "lampq" and base_quantizer == "adalog":
        wanted = ("LampQ", f"{bits}MP/{bits}MP")
    elif allocator == "uniform":
        wanted = (BASE_QUANTIZERS.get(base_quantizer, ""), f"{bits}/{bits}")
    else:
        return None
    for row in table(3):
        if (row["method"], row["w/a"]) == wanted:
            return float(row[column])
    return None
