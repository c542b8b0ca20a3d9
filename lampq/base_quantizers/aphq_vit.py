"""APHQ-ViT: MLPs trained anew with ReLU, then block reconstruction by the average perturbation Hessian.

Wu et al., APHQ-ViT: Post-Training Quantization with Average Perturbation Hessian Based Reconstruction for Vision
Transformers, CVPR 2025.
"""

from lampq.base_quantizers.mlp_reconstruction import MlpReconstruction
from lampq.base_quantizers.qdrop import QDrop
from lampq.base_quantizers.uniform_search import UniformSearch
from lampq.parts import setting
from lampq.reconstruction.losses.average_hessian import AveragePerturbation, average_perturbation
from lampq.reconstruction.mlp import MlpLoss, MlpRecipe, weighed
from lampq.reconstruction.training import TrainedBlock

ERROR_DIVISOR = 10.0
"""What the error of an MLP's output is divided by beside that with clipped activations."""


class APHQViT(MlpReconstruction, QDrop):
    """QDrop with output errors weighed by the average perturbation Hessian, from MLPs with ReLU on.

    The authors train all MLPs first and take the network with ReLU for the full-precision one; here an MLP is trained
    when its block's turn comes, and the target of every block stays the original's output. The perturbation is random
    instead of constant (see `lampq.reconstruction.losses.average_hessian`).

    Args:
        temperature: T of the class probabilities.
        hessian_images: how many images the Hessian is averaged over.
        mlp_reconstruction: whether MLPs are trained anew.
        mlp_rate: learning rate of their weights.

    and as `QDrop`.
    """

    temperature: float = setting(20.0, above=0)
    hessian_images: int = setting(256, minimum=1)
    mlp_reconstruction: bool = True
    mlp_rate: float = setting(4e-5, above=0)

    name = "aphq_vit"
    only_classifiers = True
    revision = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mlp_iterations = self.iterations

    def trained_by(self) -> AveragePerturbation:
        return AveragePerturbation(self.temperature, self.hessian_images)

    def mlp_loss(self, block: TrainedBlock, loss: AveragePerturbation) -> MlpLoss:
        """``H (y - y_fp)^2``, which the block is trained by too."""
        loss.weights = average_perturbation(block, self.temperature, self.hessian_images)
        return MlpLoss(weighed(loss.weights.flatten(0, -2)), ERROR_DIVISOR)

    def mlp_recipe(self, bits: int | None) -> MlpRecipe:
        percentile = published_percentile(8 if bits is None else bits)
        return MlpRecipe(self.mlp_iterations, self.batch_size, self.mlp_rate, percentile)

    def mlp_identity(self) -> dict:
        return {"hessian": [self.temperature, self.hessian_images]}

    def calibration_of_relu(self) -> UniformSearch:
        return UniformSearch(self.candidates, self.rounds, rectified=True)


def published_percentile(bits: int) -> float:
    """The percentile that belongs to some bits of the activation: 0.98 at 2 and 4 bits, 0.99 at 3 and at all others."""
    return 0.98 if bits in (2, 4) else 0.99
