"""The model card: what a saved model is, in Markdown."""

from typing import Any

from lampq.plan.sites import LAYER_TYPES
from lampq.transform.base import told


def card(description: dict[str, Any], size: int, full_size: int) -> str:
    """Accuracy, size, the bits of each layer, how it was made and how it is loaded.

    Args:
        description: what config.json holds.
        size: of model.safetensors, in bytes.
        full_size: of the same model in full precision, in bytes.
    """
    about, name = description["about"], _name(description)
    lines = [f"# {name}, quantized", ""]
    if made := about.get("made"):
        lines += [f"Made by {made}. Quantization is simulated: accuracies are those of rounded values.", ""]
    if transform := (description["architecture"] or {}).get("transform"):
        lines += [f"The network was {told(transform)}.", ""]
    metrics = about.get("metrics", {})
    if "top1" in metrics:
        lines += [
            f"- top-1: {metrics['top1']:.2f} ± {metrics['top1_standard_error']:.2f} % on {metrics['images']} images "
            f"({metrics['top1_difference']:+.2f} ± {metrics['top1_difference_standard_error']:.2f} to full precision)"
        ]
    lines += [f"- size: {size:,} bytes on disk, {full_size:,} in full precision ({full_size / size:.1f} times)"]
    if "average_weight_bits" in metrics:
        lines += [f"- {metrics['average_weight_bits']:.2f} weight bits on average over the 4N layers"]
    lines += ["", *bits_table(description["plan"]), "", "```python", "import lampq", "", 'model = lampq.load("FOLDER")']
    lines += ["logits = model(images)  # normalised as config.json says (data_config)", "```", ""]
    if about.get("licence"):
        lines += [f"Licence of the weights: {about['licence']}.", ""]
    return "\n".join(lines)


def bits_table(plan: dict[str, Any]) -> list[str]:
    """Weight and input bits of each layer, a row a block."""
    rows: dict[int, dict[str, str]] = {}
    for site in plan["sites"]:
        if site["allocated"]:
            bits = ("32" if b is None else str(b) for b in (site["weight_bits"], site["activation_bits"]))
            rows.setdefault(site["block"], {})[site["type"]] = "/".join(bits)
    head = ["| block | " + " | ".join(LAYER_TYPES) + " |", "|---" * (1 + len(LAYER_TYPES)) + "|"]
    body = [f"| {block} | " + " | ".join(row.get(t, "") for t in LAYER_TYPES) + " |" for block, row in rows.items()]
    return ["Bits of weights/inputs:", "", *head, *body]


def _name(description: dict[str, Any]) -> str:
    architecture = description["architecture"]
    return architecture["name"] if architecture else "A network"
