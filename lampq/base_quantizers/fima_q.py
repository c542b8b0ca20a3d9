"""FIMA-Q: block reconstruction by an approximation of the Fisher information matrix.

Wu et al., FIMA-Q: Post-Training Quantization for Vision Transformers by Fisher Information Matrix Approximation, CVPR
2025.
"""

from lampq.base_quantizers.qdrop import QDrop
from lampq.parts import setting
from lampq.reconstruction.losses.fisher import FisherApproximation


class FimaQ(QDrop):
    """QDrop with the errors of a block's output weighed by gradients of the prediction's divergence.

    The authors' activations have one scale a token; here they have one a tensor or a head, as in `QDrop`.

    Args:
        temperature: T of the class probabilities.
        rank: k, how many gradients the approximation is made of, collected in the course of training.
        gradient_images: how many images each of them is averaged over.

    and as `QDrop`.
    """

    temperature: float = setting(20.0, above=0)
    rank: int = setting(5, minimum=1)
    gradient_images: int = setting(256, minimum=1)

    name = "fima_q"
    only_classifiers = True
    revision = 1

    def trained_by(self) -> FisherApproximation:
        return FisherApproximation(self.temperature, self.rank, self.iterations, self.gradient_images)
