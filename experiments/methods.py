"""How the rows of our own comparisons are called, and in which order they stand."""

from . import paper

LABELS = {
    "adalog": "equal bits",
    "random": "random bits",
    "vt_ptq": "VT-PTQ",
    "vt_ptq_knapsack": "VT-PTQ, least Omega",
    "hawq_v2": "HAWQ-V2",
    "output_fisher": "output Fisher",
    "mix_qvit": "Mix-QViT",
    "clado": "CLADO",
    "clado_diagonal": "CLADO without pairs",
    "mptq_greedy": "greedy descent",
    "lampq_without_update": "LampQ without update",
    "lampq_without_type_scaling": "LampQ without type scaling",
    "lampq_update_only": "LampQ's update alone",
    "lampq_greedy": "LampQ, greedy solver",
    "lampq_module_wise": "LampQ by module",
    "lampq_resolve": "LampQ, solved again",
    "lampq": "LampQ",
    "lampq_plus": "LampQ+",
}
"""``method=NAME`` -> what it is called beside the others."""


def label(method: str) -> str:
    """What a row is called; a method that has no name here keeps its own."""
    return LABELS.get(method, paper.METHODS.get(method, method))


def in_order(found: set[str]) -> list[str]:
    """Methods in the order of `LABELS`, others after them by name."""
    return [m for m in LABELS if m in found] + sorted(found - set(LABELS))
