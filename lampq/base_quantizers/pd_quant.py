"""PD-Quant on Vision Transformers: QDrop, and what a block's error does to the prediction.

Liu et al., PD-Quant: Post-Training Quantization Based on Prediction Difference Metric, CVPR 2023.
"""

from dataclasses import dataclass

from lampq.base_quantizers.qdrop import QDrop
from lampq.limits import number
from lampq.reconstruction.losses.prediction_difference import PredictionDifference


@dataclass(eq=False)
class PDQuant(QDrop):
    """QDrop with the prediction difference added to its loss, on a second batch that is purely quantized.

    Its distribution correction needs batch normalizations and does nothing in a Vision Transformer.

    Args:
        temperature: T of the class probabilities.
        prediction_weight: lambda_r, which the prediction difference is divided by; the larger, the more it is QDrop.

    and as `QDrop`.
    """

    temperature: float = 4.0
    prediction_weight: float = 0.1

    name = "pd_quant"
    revision = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.temperature = number("base_quantizer.temperature", self.temperature, above=0)
        self.prediction_weight = number("base_quantizer.prediction_weight", self.prediction_weight, above=0)

    def loss(self) -> PredictionDifference:
        return PredictionDifference(self.temperature, self.prediction_weight)
