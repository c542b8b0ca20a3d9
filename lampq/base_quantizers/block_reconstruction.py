"""What all methods share that train block after block to keep its output."""

import copy
from abc import abstractmethod

from torch import Tensor, nn

from lampq.base_quantizers.base import SEARCHES, BaseQuantizer
from lampq.calibration.segment import Segment, States
from lampq.errors import LampQError
from lampq.parts import setting
from lampq.plan.bits import Bits
from lampq.plan.sites import Site
from lampq.reconstruction.block import Block
from lampq.reconstruction.losses.base import BlockLoss
from lampq.reconstruction.losses.divergence import Divergence
from lampq.reconstruction.training import Recipe, TrainedBlock
from lampq.workers import Workers


class BlockReconstruction(BaseQuantizer):
    """Stem, blocks and tail are trained in turn, each on what the quantized ones before it give.

    What is trained, from independent states on, is the rounding of weights (or the weights) and the scales of
    activations.

    The tail (classifier) is trained by the divergence of class probabilities, whatever the loss of the others.

    Args:
        iterations: steps a block.
        images: training images that blocks are trained on.
        batch_size: images of a step.
        rounding_rate: learning rate of the rounding.
        scale_rate: learning rate of activation scales.
        regularization: lambda, weight of the regularizer that drives soft weights to a code.
        warmup: fraction of the steps before it sets in.
        search: what plans are scored with: ``surrogate``, ``block_bank``, ``exact``.
        search_steps: with the last two, steps a block of what plans are scored with; None: as many as `iterations`, 0:
            what training starts from.
        rank_last: how many of a search's best plans are trained for a few steps each, and judged again on D, before one
            of them is trained to the end; 0: none.
        rank_steps: these steps a block.

    Raises:
        LampQError: a value out of its range.
    """

    iterations: int = setting(20_000, minimum=1)
    images: int = setting(1024, minimum=1)
    batch_size: int = setting(32, minimum=1)
    rounding_rate: float = setting(1e-3, above=0)
    scale_rate: float = setting(4e-5, at_least=0)
    regularization: float = setting(0.01, at_least=0)
    warmup: float = setting(0.2, at_least=0, at_most=1)
    search: str = setting("surrogate", options=SEARCHES, identity="never")
    search_steps: int | None = setting(None, minimum=0, identity="never")
    rank_last: int = setting(0, minimum=0, identity="never")
    rank_steps: int = setting(50, minimum=1, identity="never")

    sequential = True
    stores_weights = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.search_steps is not None and self.search == "surrogate":
            raise LampQError(
                f"base_quantizer.search_steps={self.search_steps}: no block is trained for a search with "
                "base_quantizer.search=surrogate; set base_quantizer.search=block_bank, or leave search_steps null"
            )
        if self.search_steps is not None and self.search_steps >= self.iterations:
            self.search_steps = None  # the same
        self.calibration = self.calibrated_by()

    @abstractmethod
    def calibrated_by(self) -> BaseQuantizer:
        """The method that finds the independent states."""

    @abstractmethod
    def trained_by(self) -> BlockLoss:
        """What stem and blocks are trained by; a new one for each."""

    def recipe(self) -> Recipe:
        """How a block is trained; here without dropping, from the quantized network's input on."""
        return Recipe(
            self.iterations, self.batch_size, self.rounding_rate, self.scale_rate, self.regularization, self.warmup
        )

    @property
    def independent(self) -> BaseQuantizer:
        return self.calibration

    @property
    def training_images(self) -> int:
        return self.images

    @property
    def realisation_steps(self) -> int:
        return self.iterations

    @property
    def in_search(self) -> "BlockReconstruction":
        return self if self.search_steps is None else self._with_block_steps(self.search_steps)

    def shortened(self, steps: int) -> "BlockReconstruction":
        """The method with so many steps of training at most."""
        return self._with_block_steps(steps)

    def _with_block_steps(self, steps: int) -> "BlockReconstruction":
        other = copy.copy(self)
        other.iterations = min(self.iterations, steps)
        return other

    def calibrate(self, site: Site, layer: nn.Module, inputs: tuple[Tensor, ...], bits: Bits) -> dict[str, Tensor]:
        return self.calibration.calibrate(site, layer, inputs, bits)

    def quantized_module(self, site: Site, layer: nn.Module, state: dict[str, Tensor], bits: Bits) -> nn.Module:
        return self.calibration.quantized_module(site, layer, state, bits)

    def has_choice(self, bits: int | None) -> bool:
        """Whether weights at these bits have codes to choose from."""
        return bits is not None and not (bits == 1 and self.calibration.one_bit == "symmetric")

    def realise_segment(self, segment: Segment) -> States:
        with Workers(segment.inputs.device) as workers:
            block = TrainedBlock(segment, workers)
            return self.reconstruct(block, segment.independent_states(), {}, self.loss_of(block))

    def loss_of(self, block: Block) -> BlockLoss:
        """The loss of a segment: the tail has its own."""
        last = block.segment.index == block.segment.full_precision.segments - 1
        return Divergence() if last else self.trained_by()

    def reconstruct(self, block: TrainedBlock, states: States, layers: dict[str, nn.Module], loss: BlockLoss) -> States:
        """Train a block from the given states on.

        Args:
            layers: full-precision layers in place of the network's own, by name.
        """
        recipe = self.recipe()
        block.make_trainable(states, layers, recipe, self.quantized_module, self.has_choice)
        block.train(loss, recipe)
        return block.states()
