"""Mix-QViT's allocation: relevance of each layer times the loss that it costs alone, and a linear program."""

import logging

from lampq.allocation.base import Allocator
from lampq.allocation.least_score import least_score_plan
from lampq.errors import LampQError
from lampq.limits import choice, integer
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.sensitivity.output_fisher import falling
from lampq.sensitivity.relevance import relevance_importance
from lampq.sensitivity.single_layer_loss import single_layer_losses
from lampq.workbench import Workbench

log = logging.getLogger(__name__)


class MixQViT(Allocator):
    """Bits of least total ``I_i S_i(b)``.

    I_i is the layer's share of the predicted class's relevance (`lampq.sensitivity.relevance`), as in LRP-QViT, and
    ``S_i(b) = max(0, loss increase)`` on D with that layer alone at b bits, never rising with more bits (Ranjan &
    Savakis 2024, 2025). Their abstracts name the two scores; that they are multiplied and that a linear program adds
    them up (a summary by others says: a quadratic one) is our reading.

    Args:
        importance: ``relevance``, or ``none``: I_i = 1, the loss increases alone.
        relevance_images: the first so many images of D, over which relevance is averaged; all where D has fewer.
        others: precision of the other layers while one is measured: ``full_precision``, or bits, at which everything
            outside the 4N layers is at its fixed bits. The loss increase then is that over the layer in full precision.
    """

    name = "mix_qvit"
    revision = 1

    def __init__(
        self, importance: str = "relevance", relevance_images: int = 128, others: str | int = "full_precision"
    ) -> None:
        self.importance = choice("allocator.importance", importance, ("relevance", "none"))
        self.relevance_images = integer("allocator.relevance_images", relevance_images, minimum=1)
        if others != "full_precision" and (isinstance(others, bool) or not isinstance(others, int)):
            raise LampQError(f"allocator.others={others}: must be full_precision, or an integer of bits")
        self.others = others if others == "full_precision" else integer("allocator.others", others, 1, 16)

    def settings(self) -> dict:
        """All options; the number of images only where there is a relevance."""
        unused = {"relevance_images"} if self.importance == "none" else set()
        return {key: value for key, value in vars(self).items() if key not in unused}

    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Measure every layer at every bit-width, weigh, solve.

        Raises:
            LampQError: no plan keeps the budget, or the base quantizer is not defined at a bit-width needed.
        """
        workbench.bank.check_bits("bit_set", *budget.candidates)
        others = None if self.others == "full_precision" else self.others
        workbench.bank.check_bits("allocator.others", others)
        losses = single_layer_losses(workbench, budget, others)
        weight = {s.name: 1.0 for s in workbench.layers}
        if self.importance == "relevance":
            weight = relevance_importance(workbench, self.relevance_images)
        scores = {
            name: {b: weight[name] * max(0.0, loss) for b, loss in falling(row).items()} for name, row in losses.items()
        }
        noisy = sum(min(row.values()) < 0 for row in losses.values())
        if noisy:
            log.info("mix_qvit: %d layers of %d gain at some bits, which counts as no loss", noisy, len(losses))
        origin = {"allocator": self.name, "settings": self.settings(), "importance": weight}
        return least_score_plan(workbench, budget, scores, origin)
