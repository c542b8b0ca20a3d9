"""What was less than the paper's setting in a run, and which kernels computed it."""

import pandas as pd

from .measured import Run

ADALOG_SEARCH = {"candidates": 128, "rounds": 3, "steps": 6}
PUBLISHED_SEARCH = {name: {"candidates": 100, "rounds": 3} for name in ("ptq4vit", "apq_like")}
"""Settings of searches as published, by base quantizer; those of AdaLog for all others that have such settings."""

PUBLISHED_STEPS, STEPS_OF = 20_000, {"glf_q": 3_000}
"""Steps in which block reconstruction trains a block, as published, and where other ones are, by base quantizer."""


def footnote(run: Run) -> str:
    """What was less than the paper's setting in a run: images, search; empty where nothing was."""
    metrics, parts = run.metrics, []
    if run.on_a_subset:
        full = metrics.get("full_validation_images")
        parts.append(f"{metrics['images']} of {f'{full:,} ' if full else 'the '}validation images")
    if metrics.get("sample_images", 1024) < 1024:
        parts.append(f"D of {metrics['sample_images']} images")
    scored = metrics.get("evaluation_images")
    if scored is not None and scored < metrics.get("sample_images", scored):
        parts.append(f"plans scored on the first {scored} of them in the search")
    limit = run.origin.get("settings", {}).get("max_evaluations")
    if limit is not None:
        parts.append(f"at most {limit} further plans scored in the search")
    if "transform" in metrics:
        parts.append(f"the network transformed before it is quantized (transform={metrics['transform']})")
    name, _, search = run.identity["base_quantizer"]
    if any(search.get(key, value) != value for key, value in PUBLISHED_SEARCH.get(name, ADALOG_SEARCH).items()):
        parts.append("shortened search of the base quantizer")
    published = STEPS_OF.get(name, PUBLISHED_STEPS)
    if search.get("iterations", published) < published:
        steps = f"{search['iterations']:,} steps (published: {published:,})"
        parts.append(f"blocks trained in {steps} on {search['images']:,} images")
    return "; ".join(parts)


OVERLAP = "D began with the calibration images"
"""What is said of runs whose D was drawn before D left the calibration images out."""


def overlaps(run: Run) -> bool:
    """Whether D had the calibration images in it: the run is older than the rule that leaves them out."""
    sample = run.identity["images"].get("sample", {})
    return not ("drawn" in sample or "dataset" in sample or "preprocessing" not in sample)


def other_kernels(rows: pd.DataFrame) -> list[str]:
    """One line where runs that stand beside each other were computed with different kernels; none where with the same.

    The first-named kernels are those of most runs; the fingerprints of the others are listed.
    """
    by_kernels = rows.groupby("kernels").fingerprint.agg(lambda names: sorted(set(names)))
    if len(by_kernels) < 2:
        return []
    most, *others = sorted(by_kernels.index, key=lambda words: (-len(by_kernels[words]), words))
    told = "; ".join(f"{words}: {', '.join(f'`{name}`' for name in by_kernels[words])}" for words in others)
    return [
        f"Not all computed with the same kernels, with which a result moves (see README). Most: {most}. Others: {told}"
    ]
