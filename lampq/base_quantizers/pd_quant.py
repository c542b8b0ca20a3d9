"""PD-Quant on Vision Transformers: QDrop, and what a block's error does to the prediction.

Liu et al., PD-Quant: Post-Training Quantization Based on Prediction Difference Metric, CVPR 2023.
"""

from lampq.base_quantizers.qdrop import QDrop
from lampq.parts import setting
from lampq.reconstruction.losses.prediction_difference import PredictionDifference


class PDQuant(QDrop):
    """QDrop with the prediction difference added to its loss, on a second batch that is purely quantized.

    Its distribution correction needs batch normalizations and does nothing in a Vision Transformer.

    Args:
        temperature: T of the class probabilities.
        prediction_weight: lambda_r, which the prediction difference is divided by; the larger, the more it is QDrop.

    and as `QDrop`.
    """

    temperature: float = setting(4.0, above=0)
    prediction_weight: float = setting(0.1, above=0)

    name = "pd_quant"
    revision = 1

    def trained_by(self) -> PredictionDifference:
        return PredictionDifference(self.temperature, self.prediction_weight)
