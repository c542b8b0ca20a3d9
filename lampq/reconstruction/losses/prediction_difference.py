"""Prediction difference: what a block's error does to the class probabilities, through the rest of the network.

Liu et al., PD-Quant: Post-Training Quantization Based on Prediction Difference Metric, CVPR 2023. Its distribution
correction matches statistics of batch normalizations; a Vision Transformer has none, so it is not here.
"""

import torch
from torch import Tensor

from lampq.reconstruction.block import Block
from lampq.reconstruction.losses.base import BlockLoss
from lampq.reconstruction.losses.divergence import divergence
from lampq.reconstruction.losses.mse import SquaredError


class PredictionDifference(BlockLoss):
    """Squared error of the dropped output, plus ``KL(softmax(fp / T) || softmax(q / T)) / lambda_r``: q are the logits
    when the rest of the network, in full precision, goes on from the output without dropping.

    Args:
        temperature: T.
        weight: lambda_r; the larger, the less the second term counts.
    """

    of_clean_output = True

    def __init__(self, temperature: float, weight: float) -> None:
        self.temperature = temperature
        self.weight = weight
        self._error = SquaredError()

    def prepare(self, block: Block) -> None:
        self._logits = block.full_precision_logits()
        self._rest = block.rest

    def __call__(self, output: Tensor, target: Tensor, images: Tensor) -> Tensor:
        return self._error(output, target, images)

    def clean(self, output: Tensor, images: Tensor) -> Tensor:
        predicted = self._rest(output)
        if isinstance(predicted, Tensor):
            return divergence(predicted, self._logits[images], self.temperature) / self.weight
        # A detector's: one distribution for each of an image's anchors.
        pairs = zip(predicted, images.tolist(), strict=True)
        means = [divergence(logits, self._logits[number], self.temperature).mean() for logits, number in pairs]
        return torch.stack(means) / self.weight
