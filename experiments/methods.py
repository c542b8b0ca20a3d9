"""How methods and their variants are called, and in which order they stand."""

import re

from . import paper
from .measured import Run

PLACE = ("model", "bits", "weight_bits", "activation_bits", "scale", "seed", "method")
NOT_A_VARIATION = (*PLACE, "dataset", "dataset.root", "model.checkpoint", "bank")
"""Overrides that place a cell in a table; any other makes a row of its own."""

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
    "lampq_context": "LampQ in context",
    "lampq_measured": "LampQ, changes measured",
    "adalog_recon": "AdaLog, blocks trained",
    "lampq_adalog_recon": "LampQ, blocks trained",
    "aphq_vit": "APHQ-ViT",
    "fima_q": "FIMA-Q",
    "glf_q": "GLF-Q",
    "glf_q_loss_alone": "GLF-Q, loss alone",
    "glf_q_without_rotation": "GLF-Q without rotation",
    "glf_q_without_mlp": "GLF-Q without ReLU",
    "glf_q_local": "GLF-Q, local loss",
    "glf_q_global": "GLF-Q, global loss",
    "glf_q_logits_local": "GLF-Q, logits and local loss",
    "glf_q_fima": "GLF-Q, FIMA-Q's loss",
    "apq_like": "APQ-like",
    "rtn": "round to nearest",
}
"""``method=NAME`` -> what it is called beside the others."""


def label(method: str) -> str:
    """What a row is called; a method that has no name here keeps its own."""
    return LABELS.get(method, paper.METHODS.get(method, method))


def in_order(found: set[str]) -> list[str]:
    """Methods in the order of `LABELS`, others after them by name."""
    return [m for m in LABELS if m in found] + sorted(found - set(LABELS))


VARIANTS = {
    "allocator=from_plan": "given plan",
    "allocator=lampq_context": "bits in context",
    "allocator.changes=measured": "changes measured",
    "allocator.measurements=1": "once",
    "allocator.measurements": "{} times",
    "allocator.try_next_pairs=0": "literal update",
    "allocate=all": "bits of everything",
    "allocate=layers_and_operands": "bits of operands too",
    "base_quantizer=adalog_short": "AdaLog's short search",
    "base_quantizer.start=searched": "searched start",
    "budget=bops": "equal bit operations",
    "transform=none": "as it comes",
    "transform=hadamard": "rotated",
    "dataset.source=noise": "noise images",
    "dataset.source=real": "real images",
    "dataset.calibration_images": "{} images",
    "dataset.calibration_root=null": "own images",
    "dataset.calibration_root": "other images",
    "dataset.sample_images": "D of {}",
    "evaluation_images": "{} images",
    "reading=as_default": "as by default",
    "reading=beta_1": "beta 1",
    "reading=gamma_10": "gamma 10",
    "reading=mu_all": "mu N",
    "reading=line_5_as_printed": "line 5 as printed",
    "reading=follow_qkv": "operands follow qkv",
    "reading=dataset_labels": "labels of the data set",
    "reading=trace_per_parameter": "trace per parameter",
    "reading=largest_alphas": "beta 1, gamma 10, mu N",
    "reading=largest_alphas_follow_qkv": "beta 1, gamma 10, mu N, operands follow qkv",
}
"""What an override, or one of this key whatever its value, is called in a table."""

TOLD_BELOW = (
    *("allocator.plan", "allocator.trust", "base_quantizer.images", "base_quantizer.iterations"),
    *("base_quantizer.scale_rate", "base_quantizer.weight_rate", "dataset.sample_images", "effort"),
    *("effort.synthetic_images", "evaluation_images", "max_evaluations"),
)
"""Overrides that a footnote or the list of runs tells; a variant is named by them where it has no others."""


def variation(asked: dict[str, str], common: tuple[str, ...] = ()) -> str:
    """Overrides that place a cell in no row of the paper, for example ``lampq.gamma=2``.

    Args:
        asked: all of its overrides.
        common: those that all rows of a table have: they are no variation, and one without is.
    """
    rest = [f"{key}={value}" for key, value in asked.items() if key not in (*NOT_A_VARIATION, *common)]
    return " ".join(rest + [f"without {key}" for key in common if key not in asked])


def in_words(variants: dict[str, list[Run]]) -> dict[str, str]:
    """What differs in each variant of a method, in a word or two, no two of them alike.

    Args:
        variants: runs by variation.
    """
    words: dict[str, str] = {}
    for told, runs in sorted(variants.items(), key=lambda item: (len(item[0]), item[0])):
        brief = _words(told, runs)
        words[told] = brief if brief and brief not in words.values() else _words(told, runs, below=True)
    return words


def _words(told: str, runs: list[Run], below: bool = False) -> str:
    steps = runs[0].identity["base_quantizer"][2].get("iterations") if runs else None
    found = []
    for override in re.split(r" (?=\S+=|without )", told):
        key, _, value = override.partition("=")
        if key == "effort" and steps is not None:
            found.append(f"{steps:,} steps")
        elif below or override in VARIANTS or key not in TOLD_BELOW:
            otherwise = f"{key.rpartition('.')[2]} {{}}".replace("_", " ") if value else override
            found.append(VARIANTS.get(override, VARIANTS.get(key, otherwise)).format(value))
    return ", ".join(found)
