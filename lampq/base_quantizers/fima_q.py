"""FIMA-Q: block reconstruction by an approximation of the Fisher information matrix.

Wu et al., FIMA-Q: Post-Training Quantization for Vision Transformers by Fisher Information Matrix Approximation, CVPR
2025.
"""

from dataclasses import dataclass

from lampq.base_quantizers.qdrop import QDrop
from lampq.limits import integer, number
from lampq.reconstruction.losses.fisher import FisherApproximation


@dataclass(eq=False)
class FimaQ(QDrop):
    """QDrop with the errors of a block's output weighed by gradients of the prediction's divergence.

    The authors' activations have one scale a token; here they have one a tensor or a head, as in `QDrop`.

    Args:
        temperature: T of the class probabilities.
        rank: k, how many gradients the approximation is made of, collected in the course of training.
        gradient_images: how many images each of them is averaged over.

    and as `QDrop`.
    """

    temperature: float = 20.0
    rank: int = 5
    gradient_images: int = 256

    name = "fima_q"
    only_classifiers = True
    revision = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.temperature = number("base_quantizer.temperature", self.temperature, above=0)
        self.rank = integer("base_quantizer.rank", self.rank, minimum=1)
        self.gradient_images = integer("base_quantizer.gradient_images", self.gradient_images, minimum=1)

    def loss(self) -> FisherApproximation:
        return FisherApproximation(self.temperature, self.rank, self.iterations, self.gradient_images)
