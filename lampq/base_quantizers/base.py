"""What every base quantizer offers: calibrate one site at given bits, and build its quantized module."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from lampq.calibration.segment import Segment, States
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.parts import Part
from lampq.plan.bits import Bits
from lampq.plan.sites import Site

SEARCHES = ("surrogate", "block_bank", "exact")
"""What plans may be scored with where a method is sequential."""


class BaseQuantizer(Part, ABC):
    """A post-training quantization method, seen one site at a time.

    Subclasses hold settings only. What they find out about a site is a dictionary of tensors (an entry of the
    `LayerBank`): quantizer parameters, never weights, so that an entry is small and the original model is never
    overwritten.

    Attributes:
        name: the method's name, as in ``base_quantizer=NAME``.
        revision: raised whenever the method's numbers change, so that stored entries are not used again.
        minimum_bits, maximum_bits: the bit-widths at which the method is defined.
        sequential: whether a site's state depends on the sites quantized before it. Such a method realises a plan
            segment by segment (`realise_segment`, `lampq.bank.realisation`); what `calibrate` finds is then its
            *independent* state, which stands in for the realised one while plans are searched.
        search: for a sequential method, what plans are scored with: ``surrogate`` (independent states), ``block_bank``
            (blocks realised at equal bits, `lampq.bank.block_bank`) or ``exact`` (every scored plan is realised). Not
            among `settings`: it changes searches only.
        search_steps: where ``search`` is another, how many steps the blocks of a search are trained for; None:
            as many as those of the plan that is built.
        rank_last: how many of a search's best plans are trained for a few steps each, and judged again; 0: none. As
            `search`, not among `settings`.
        training_images: how many training images a sequential method realises plans on; None for the calibration
            images.
        starts_from_bank: whether realising a segment begins with its independent states.
        realisation_steps: how many steps a segment counts in progress (`Segment.step`).
        image_bits: bits of the image that enters the patch embedding, whatever the budget; None for full precision.
        stores_weights: whether states hold weights or their codes, because rounding is no function of weights and
            quantizer parameters alone.
        quantizes_tensors: whether tensors that are no operand of a product are sites too
            (`ModelAdapter.with_tensors`).
        only_classifiers: whether it needs the class probabilities that a classifier gives.
        gradient_labels: for a method whose `calibrate` takes ``output_gradient``, the gradient of the loss at the
            site's output (`lampq.calibration.output_gradients`): the labels that the loss is taken at. None: it
            needs no gradient.
        precision: of the inputs that `calibrate` is given, and of the forward pass that they are observed in.
    """

    group = "base_quantizer"
    name: ClassVar[str]
    revision: ClassVar[int]
    minimum_bits: ClassVar[int] = 1
    maximum_bits: ClassVar[int] = 16
    sequential: ClassVar[bool] = False
    training_images: ClassVar[int | None] = None
    starts_from_bank: ClassVar[bool] = True
    realisation_steps: ClassVar[int] = 1
    stores_weights: ClassVar[bool] = False
    quantizes_tensors: ClassVar[bool] = False
    only_classifiers: ClassVar[bool] = False
    gradient_labels: ClassVar[str | None] = None
    # Settings of some methods, which declare them; not annotated, so that each is in its own place there.
    search = "surrogate"
    search_steps = None
    rank_last = 0
    image_bits = None
    precision = "float32"

    @property
    def dtype(self) -> torch.dtype:
        """PyTorch's type of `precision`."""
        return getattr(torch, self.precision)

    @property
    def independent(self) -> "BaseQuantizer":
        """The method that finds the independent states; methods that share one share its entries and scores."""
        return self

    @property
    def in_search(self) -> "BaseQuantizer":
        """The method that realises what plans are scored with, where these are not independent states: one that may
        train less."""
        return self

    def check_model(self, adapter: ModelAdapter) -> None:
        """Refuse a model that the method cannot quantize, before any work.

        Raises:
            LampQError: names what the model lacks.
        """
        if adapter.task == "classification":
            return
        if self.only_classifiers or self.independent.gradient_labels is not None:
            raise LampQError(
                f"base_quantizer={self.name}: needs class probabilities, which {adapter.name} does not give; choose "
                "another, for example adalog, or a classifier"
            )
        if self.precision != "float32":
            raise LampQError(
                f"base_quantizer.precision=float64: {adapter.name} cannot be run in it, its operators are float32; "
                "take float32, or a classifier"
            )

    @abstractmethod
    def calibrate(self, site: Site, layer: nn.Module, inputs: tuple[Tensor, ...], bits: Bits) -> dict[str, Tensor]:
        """Find the quantizer parameters of one site.

        Args:
            site: the site.
            layer: its full-precision module (`nn.Linear`, `nn.Conv2d` or `MatMul`); not changed.
            inputs: what the full-precision model feeds it on the calibration images: one tensor
                ``[images (times windows), tokens, channels]`` (or ``[images, height, width, channels]``,
                ``[images, channels]``, ``[images, channels, height, width]`` for the patch convolution), or the
                two operands of a matmul, ``[images (times windows), heads, rows, inner]`` and
                ``[images (times windows), heads, inner, columns]``.
            bits: of the weights (for a matmul: ignored) and of the inputs.

        Returns:
            The entry: name -> tensor.
        """

    @abstractmethod
    def quantized_module(self, site: Site, layer: nn.Module, state: dict[str, Tensor], bits: Bits) -> nn.Module:
        """Build the module that replaces `layer`: same call, quantized operands (simulated in floating point).

        Fake-quantized weights are computed here, once, not in every forward.
        """

    def realise_segment(self, segment: Segment) -> States:
        """Sequential methods: states of the segment's sites, by the site's name.

        A state may hold, beside quantizer parameters, ``weight_codes`` ``[out channels, ...]`` (integers) and what
        else the method has changed of the layer (``weight``, ``bias``); `quantized_module` is built from it alone
        and from the full-precision layer.
        """
        raise NotImplementedError

    def upstream_module(self, site: Site, layer: nn.Module, state: dict[str, Tensor], bits: Bits) -> nn.Module:
        """Sequential methods: what stands at a site while the sites after it are realised; its quantized module."""
        return self.quantized_module(site, layer, state, bits)

    def surrounding_modules(self, adapter: ModelAdapter, site: Site, state: dict[str, Tensor]) -> dict[str, nn.Module]:
        """Modules beside the site's own that a realised state changes, by their names in the network."""
        return {}

    def stored_parameters(self, state: dict[str, Tensor]) -> int:
        """How many numbers of an entry a packed model has to store beside its weights and biases."""
        own = ("weight_codes", "weight", "bias")
        return sum(tensor.numel() for name, tensor in state.items() if name not in own)
