"""What every loss of block reconstruction offers."""

from abc import ABC, abstractmethod

from torch import Tensor

from lampq.reconstruction.block import Block


class BlockLoss(ABC):
    """Distance of a block's output from the full-precision one, image by image.

    Attributes:
        of_clean_output: whether the loss has a second term, of the output without dropping (`clean`).
    """

    of_clean_output = False

    def prepare(self, block: Block) -> None:  # noqa: B027
        """Compute what does not change while the block is trained."""

    def refresh(self, block: Block, step: int) -> None:  # noqa: B027
        """Called before every step: compute again what follows the block."""

    @abstractmethod
    def __call__(self, output: Tensor, target: Tensor, images: Tensor) -> Tensor:
        """Values ``[batch]``.

        Args:
            output, target: ``[batch, ...]``.
            images: which images these are, ``[batch]``.
        """

    def clean(self, output: Tensor, images: Tensor) -> Tensor:
        """Values ``[batch]`` of the second term, for the output on purely quantized input, nothing dropped."""
        raise NotImplementedError


def summed_over_tokens(errors: Tensor) -> Tensor:
    """Of values ``[batch, tokens (or height, width), channels]`` the sum over tokens and mean over channels,
    ``[batch]``: for a stem or block the "sum over axis 1, mean over the rest" of the published code."""
    return errors.flatten(1, -2).sum(1).mean(-1) if errors.dim() > 2 else errors.sum(1)
