"""What the paper printed, and the authors' code gives, for the column beside ours; never used in its place."""

import csv
from dataclasses import dataclass, field
from importlib import resources

MODELS = {
    "vit_small": "ViT-S",
    "vit_base": "ViT-B",
    "deit_tiny": "DeiT-T",
    "deit_small": "DeiT-S",
    "deit_base": "DeiT-B",
    "swin_tiny": "Swin-T",
    "swin_small": "Swin-S",
    "swin_base": "Swin-B",
}
"""``model=NAME`` -> column of tables 3, 5 and 10."""

DETECTORS = {
    "mask_rcnn_swin_tiny": "Mask R-CNN Swin-T",
    "mask_rcnn_swin_small": "Mask R-CNN Swin-S",
    "cascade_mask_rcnn_swin_tiny": "Cascade Mask R-CNN Swin-T",
    "cascade_mask_rcnn_swin_small": "Cascade Mask R-CNN Swin-S",
}
"""``model=NAME`` -> columns of table 4, AP box and AP mask."""

METHODS = {
    "qdrop": "QDrop",
    "ptq4vit": "PTQ4ViT",
    "pd_quant": "PD-Quant",
    "repq_vit": "RepQ-ViT",
    "optq": "OPTQ",
    "erq": "ERQ",
    "adalog": "AdaLog",
    "vt_ptq": "VT-PTQ",
    "lampq": "LampQ",
}
"""``method=NAME`` -> row of tables 3, 4 and 10."""

ZERO_SHOT_METHODS = {"psaq_vit": "PSAQ-ViT", "psaq_vit_vt_ptq": "VT-PTQ", "psaq_vit_lampq": "LampQ"}
"""``method=NAME`` -> row of table 5."""

ABLATION = {
    "adalog": "Base: AdaLog",
    "vt_ptq": "Base + VT-PTQ",
    "lampq_without_update": "Base + I1 + I2",
    "lampq_without_type_scaling": "Base + I1 + I3",
    "lampq_update_only": "Base + I1 + I3",
    "lampq": "LampQ",
}
"""``method=NAME`` -> row of table 6. The paper does not say what I3 starts from without I2: both readings are run."""


AUTHORS_CODE = {"repq_vit": "RepQ-ViT", "erq": "ERQ", "ptq4vit": "PTQ4ViT"}
"""``method=NAME`` -> method whose authors' code was run on 32 calibration and 800 validation images."""

GLF_Q = {
    "adalog": "AdaLog",
    "qdrop": "QDrop*",
    "pd_quant": "PD-Quant*",
    "aphq_vit": "APHQ-ViT",
    "fima_q": "FIMA-Q",
    "glf_q_local": "LF",
    "glf_q_fima": "DPLR-FIM",
    "glf_q_logits_local": "Logits + LF",
    "glf_q_global": "GF",
    "glf_q_loss_alone": "GLF only",
    "glf_q_without_rotation": "GLF + MR",
    "glf_q_without_mlp": "GLF + Hadamard",
    "glf_q": "GLF-Q",
}
"""``method=NAME`` -> row of tables 1, 3 and 4 of Sun et al., GLF-Q, arXiv 2609.34564, 2026."""


@dataclass(frozen=True)
class PaperRow:
    """A row as printed.

    Attributes:
        method: the ``method=NAME`` that measures it.
        bits: weight and activation bits, as 3/3.
        label, printed_bits: as printed.
        values: printed numbers by ``model=NAME``.
    """

    method: str
    bits: str
    label: str
    printed_bits: str
    values: dict[str, float | str] = field(default_factory=dict)


def table(name: int | str) -> list[dict[str, str]]:
    """Rows of a table as printed, by its number, or of another file of published numbers, by its name."""
    file = f"table{name}.csv" if isinstance(name, int) else f"{name}.csv"
    path = resources.files(__package__) / "published" / file
    return list(csv.DictReader(path.read_text().splitlines()))


def full_precision(name: int | str) -> dict[str, float]:
    """Full-precision accuracy (percent) of a table's models, by ``model=NAME``."""
    first = table(name)[0]
    return {model: float(first[column]) for model, column in MODELS.items() if column in first}


def accuracy_rows(name: int | str, methods: dict[str, str]) -> list[PaperRow]:
    """Rows of a table of methods by models but the full-precision one; accuracies in percent, times as text."""
    by_label = {label: name for name, label in methods.items()}
    rows = []
    for printed in table(name):
        if printed["w/a"] == "32/32":
            continue
        values = {m: _number(printed[column]) for m, column in MODELS.items() if printed.get(column)}
        bits = printed["w/a"].replace("MP", "")
        rows.append(PaperRow(by_label[printed["method"]], bits, printed["method"], printed["w/a"], values))
    return rows


def detection_rows() -> list[PaperRow]:
    """Rows of table 4: AP box / AP mask."""
    by_label = {label: name for name, label in METHODS.items()}
    rows = []
    for printed in table(4)[1:]:
        values = {m: f"{printed[f'{c} AP box']} / {printed[f'{c} AP mask']}" for m, c in DETECTORS.items()}
        bits = printed["w/a"].replace("MP", "")
        rows.append(PaperRow(by_label[printed["method"]], bits, printed["method"], printed["w/a"], values))
    return rows


def detection_full_precision() -> dict[str, str]:
    """First row of table 4, AP box / AP mask by ``model=NAME``."""
    first = table(4)[0]
    return {m: f"{first[f'{c} AP box']} / {first[f'{c} AP mask']}" for m, c in DETECTORS.items()}


def ablation_rows() -> list[PaperRow]:
    """Rows of table 6: DeiT-S at 3 bits."""
    printed = {row["method"]: float(row["DeiT-S 3-bit top-1"]) for row in table(6)}
    notes = {"lampq_without_type_scaling": " (alpha = 1)", "lampq_update_only": " (uniform start)"}
    return [
        PaperRow(method, "3/3", label + notes.get(method, ""), "3/3", {"deit_small": printed[label]})
        for method, label in ABLATION.items()
    ]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
