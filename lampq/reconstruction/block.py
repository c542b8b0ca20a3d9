"""One segment of a network (stem, block, tail), what it should give, and what the rest of the network makes of it.

Li et al., BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction, ICLR 2021.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lampq.calibration.segment import Segment
from lampq.models.detection.pictures import Pictures
from lampq.workers import Workers

PIECES = 4
"""How many pieces a batch is cut into, whatever the machine, so that sums of gradients are the same on any."""

SCALED_ON = 32
"""Images on which a loss is scaled to begin with."""


class Block:
    """A segment, what it should give, and what the rest of the network makes of it.

    Args:
        segment: its `quantized` adapter is taken over.
        workers: run pieces of batches.

    Attributes:
        targets: output of the full-precision segment for all images, ``[images, ...]``.
        first_batch: which images the first step takes, ``[batch]``.
    """

    def __init__(self, segment: Segment, workers: Workers) -> None:
        self.segment = segment
        self.workers = workers
        self.targets = segment.full_precision_outputs()
        self.first_batch = self._first_images()

    def run(self, inputs: Tensor) -> Tensor:
        """The segment as it stands now."""
        return self.segment.quantized.run_segment(self.segment.index, inputs)

    def rest(self, outputs: Tensor) -> Tensor:
        """Logits ``[batch, classes]`` when the full-precision network goes on from the segment's output; of a detector
        what `ModelAdapter.predictions` says."""
        return self.segment.full_precision.predictions(outputs, self.segment.index + 1)

    def full_precision_logits(self) -> Tensor:
        """Logits of the full-precision network for all images, ``[images, classes]``."""
        return self.segment.full_precision_logits()

    def rest_to_features(self, outputs: Tensor) -> Tensor:
        """What the classifier reads (`ModelAdapter.features`), ``[batch, channels]``, when the full-precision network
        goes on from the segment's output."""
        return self.segment.full_precision.features(outputs, self.segment.index + 1)

    def full_precision_features(self) -> Tensor:
        """The same of the full-precision network for all images, ``[images, channels]``."""
        return self.segment.full_precision_features()

    @torch.no_grad()
    def scale_to(self, value: float, term: Callable[[Tensor, Tensor], Tensor]) -> float:
        """The factor with which a term, on the first images as the block is now, has the given mean; 1 if it is 0.

        Args:
            term: of output and target, ``[batch]``.
        """

        mean = self.mean(lambda output, target, _: term(output, target), self._first_images())
        return value / mean if mean > 0 else 1.0

    def mean(self, loss: Callable[[Tensor, Tensor, Tensor], Tensor], images: Tensor) -> float:
        """Mean of a loss over some images, as the block is now.

        Args:
            loss: of output, target and which images they are, ``[batch]``.
            images: which, ``[images]``.
        """

        def of_chunk(images: Tensor) -> Tensor:
            with torch.no_grad():
                output, targets = self.run(self.segment.inputs[images]), self.targets[images]
                return each(loss, output, targets, images).double().sum()

        pieces = [piece for piece in images.tensor_split(PIECES) if len(piece)]
        return (sum(self.workers.map(of_chunk, pieces)) / len(images)).item()

    def _first_images(self) -> Tensor:
        return torch.arange(min(SCALED_ON, len(self.targets)))


def each(loss: Callable[..., Tensor], output: Pictures, target: Pictures, images: Tensor) -> Tensor:
    """A loss ``[batch]``; images of different sizes one by one."""
    if isinstance(output, Tensor):
        return loss(output, target, images)
    rows = zip(output, target, images.split(1), strict=True)
    return torch.cat([loss(one.x[None], other.x[None], number) for one, other, number in rows])
