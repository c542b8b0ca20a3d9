"""What every base quantizer offers: calibrate one site at given bits, and build its quantized module."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from lampq.layers import Site


class BaseQuantizer(ABC):
    """A post-training quantization method, seen one site at a time.

    Subclasses hold settings only. What they find out about a site is a dictionary of tensors (an entry of the
    `LayerBank`): quantizer parameters, never weights, so that an entry is small and the original model is never
    overwritten.

    Attributes:
        name: the method's name, as in ``base_quantizer=NAME``.
        revision: raised whenever the method's numbers change, so that stored entries are not used again.
        minimum_bits, maximum_bits: the bit-widths at which the method is defined.
        sequential: whether a site's state depends on the sites quantized before it.
    """

    name: str
    revision: int
    minimum_bits: int = 1
    maximum_bits: int = 16
    sequential: bool = False

    @abstractmethod
    def settings(self) -> dict:
        """Settings that change the numbers (JSON-able); part of the fingerprint of a bank entry."""

    @abstractmethod
    def calibrate(
        self,
        site: Site,
        layer: nn.Module,
        inputs: tuple[Tensor, ...],
        weight_bits: int | None,
        activation_bits: int | None,
    ) -> dict[str, Tensor]:
        """Find the quantizer parameters of one site.

        Args:
            site: the site.
            layer: its full-precision module (`nn.Linear`, `nn.Conv2d` or `MatMul`); not changed.
            inputs: what the full-precision model feeds it on the calibration images: one tensor
                ``[images (times windows), tokens, channels]`` (or ``[images, height, width, channels]``,
                ``[images, channels]``, ``[images, channels, height, width]`` for the patch convolution), or the
                two operands of a matmul, ``[images (times windows), heads, rows, inner]`` and
                ``[images (times windows), heads, inner, columns]``.
            weight_bits: bits of the weights (for a matmul: ignored), or None for full precision.
            activation_bits: bits of the inputs, or None for full precision.

        Returns:
            The entry: name -> tensor.
        """

    @abstractmethod
    def quantized_module(
        self,
        site: Site,
        layer: nn.Module,
        state: dict[str, Tensor],
        weight_bits: int | None,
        activation_bits: int | None,
    ) -> nn.Module:
        """Build the module that replaces `layer`: same call, quantized operands (simulated in floating point).

        Fake-quantized weights are computed here, once, not in every forward.
        """

    def stored_parameters(self, state: dict[str, Tensor]) -> int:
        """How many numbers of an entry a packed model has to store: all but a LayerNorm's reparameterization
        (``channel_...``), which is folded into the LayerNorm and into the layer's weights and bias."""
        return sum(tensor.numel() for name, tensor in state.items() if not name.startswith("channel_"))
