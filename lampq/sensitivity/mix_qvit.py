"""Mix-QViT's metric: relevance of each layer times the loss that it costs alone."""

import logging
from typing import Any, Literal

from lampq.parts import setting
from lampq.plan.budget import Budget
from lampq.sensitivity.metric import Metric
from lampq.sensitivity.relevance import relevance_importance
from lampq.sensitivity.scores import Scores
from lampq.sensitivity.single_layer_loss import SingleLayerLoss, precision_of_others
from lampq.workbench import Workbench

log = logging.getLogger(__name__)


class MixQViT(Metric):
    """``I_i S_i(b)``.

    I_i is the layer's share of the predicted class's relevance (`lampq.sensitivity.relevance`), as in LRP-QViT, and
    ``S_i(b) = max(0, loss increase)`` on D with that layer alone at b bits, never rising with more bits (Ranjan &
    Savakis 2024, 2025). Their abstracts name the two scores; that they are multiplied and that a linear program adds
    them up (a summary by others says: a quadratic one) is our reading.

    Args:
        importance: ``relevance``, or ``none``: I_i = 1, the loss increases alone.
        relevance_images: the first so many images of D, over which relevance is averaged; all where D has fewer.
        others: see `lampq.sensitivity.single_layer_loss.SingleLayerLoss`.
    """

    name = "mix_qvit"

    importance: Literal["relevance", "none"] = "relevance"
    relevance_images: int = setting(128, minimum=1)
    others: str | int = setting("full_precision", check=precision_of_others)

    def unused(self) -> set[str]:
        return {"relevance_images"} if self.importance == "none" else set()

    def scores(self, workbench: Workbench, budget: Budget) -> Scores:
        losses = SingleLayerLoss(self.others).scores(workbench, budget)
        weight = self.notes(workbench)["importance"]
        noisy = sum(min(row.values()) < 0 for row in losses.values())
        if noisy:
            log.info("mix_qvit: %d layers of %d gain at some bits, which counts as no loss", noisy, len(losses))
        return {name: {b: weight[name] * max(0.0, loss) for b, loss in row.items()} for name, row in losses.items()}

    def notes(self, workbench: Workbench) -> dict[str, Any]:
        if self.importance == "none":
            return {"importance": {s.name: 1.0 for s in workbench.layers}}
        return {"importance": relevance_importance(workbench, self.relevance_images)}
