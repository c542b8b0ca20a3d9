"""QDrop on Vision Transformers: block reconstruction in which quantization is dropped at random.

Wei et al., QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-Training Quantization, ICLR 2022, as it is
run on Vision Transformers by Wu et al., APHQ-ViT, CVPR 2025: uniform formats with reparameterized LayerNorms.
"""

from dataclasses import replace

from lampq.base_quantizers.block_reconstruction import BlockReconstruction
from lampq.base_quantizers.uniform_search import UniformSearch
from lampq.parts import same, setting
from lampq.reconstruction.losses.base import BlockLoss
from lampq.reconstruction.losses.mse import SquaredError
from lampq.reconstruction.training import Recipe


class QDrop(BlockReconstruction):
    """From uniform states on, every block is trained by squared error.

    Its inputs are mixed, element by element, from those of the quantized and of the full-precision network; its
    activations are mixed likewise.

    Unlike in QDrop on CNNs, first and last layer have the bits of the others.

    Args:
        quantized_probability: that an element is the quantized one.
        candidates, rounds: `UniformSearch`'s.

    and as `BlockReconstruction`.
    """

    quantized_probability: float = setting(0.5, at_least=0, at_most=1)
    candidates: int = same(UniformSearch, "candidates")
    rounds: int = same(UniformSearch, "rounds")

    name = "qdrop"
    revision = 1

    def calibrated_by(self) -> UniformSearch:
        return UniformSearch(self.candidates, self.rounds)

    def trained_by(self) -> BlockLoss:
        return SquaredError()

    def recipe(self) -> Recipe:
        probability = self.quantized_probability
        return replace(super().recipe(), quantized_input=probability, quantized_activation=probability)
