"""AdaLog with the block reconstruction of its authors.

Wu et al., AdaLog, ECCV 2024 (the code's ``--optimize``).
"""

from dataclasses import replace
from typing import Literal

from lampq.base_quantizers.adalog import AdaLog
from lampq.base_quantizers.block_reconstruction import BlockReconstruction
from lampq.parts import same
from lampq.reconstruction.losses.mse import SquaredError
from lampq.reconstruction.training import Recipe

PUBLISHED_DIVISOR = 10.0
"""What the squared error is divided by."""


class AdaLogReconstruction(BlockReconstruction):
    """From AdaLog's states on, every block is trained by squared error on *full-precision* inputs, nothing dropped.

    Args:
        candidates, rounds, steps, elitist, one_bit: AdaLog's.

    and as `BlockReconstruction`.
    """

    candidates: int = same(AdaLog, "candidates")
    rounds: int = same(AdaLog, "rounds")
    steps: int = same(AdaLog, "steps")
    elitist: bool = same(AdaLog, "elitist")
    one_bit: Literal["literal", "symmetric"] = same(AdaLog, "one_bit")

    name = "adalog_recon"
    revision = 1

    def calibrated_by(self) -> AdaLog:
        return AdaLog(self.candidates, self.rounds, self.steps, self.elitist, self.one_bit)

    def trained_by(self) -> SquaredError:
        return SquaredError(PUBLISHED_DIVISOR)

    def recipe(self) -> Recipe:
        return replace(super().recipe(), quantized_input=0.0)
