"""What accuracies are called, whatever the task."""

ACCURACIES = {"top1": "top-1", "box_ap": "AP box", "mask_ap": "AP mask"}
"""Names of metrics, in percent, and what they are called."""


def accuracies_in(metrics: dict) -> list[str]:
    """Which of them a run has."""
    return [name for name in ACCURACIES if name in metrics]
