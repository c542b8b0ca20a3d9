"""Round to nearest: min-max ranges and nothing else, the baseline of every comparison."""

from torch import Tensor, nn

from lampq.base_quantizers.base import BaseQuantizer
from lampq.calibration.finite_inputs import check_finite
from lampq.number_formats.uniform import AffineQuantizer, affine_from_range
from lampq.number_formats.weights import WeightFormat
from lampq.plan.bits import Bits
from lampq.plan.sites import Site
from lampq.quantized_modules.convolution import QuantizedConvolution
from lampq.quantized_modules.linear import QuantizedLinear
from lampq.quantized_modules.matmul import QuantizedMatMul
from lampq.reparameterization.layernorm import transformed_layer


class RoundToNearest(BaseQuantizer):
    """Asymmetric uniform quantization over the range from minimum to maximum.

    Weights have one range per output row, activations one per tensor (each operand of an attention matmul is a
    tensor of its own). The image that enters the patch embedding stays in full precision, as in AdaLog.
    """

    name = "rtn"
    revision = 1

    def calibrate(self, site: Site, layer: nn.Module, inputs: tuple[Tensor, ...], bits: Bits) -> dict[str, Tensor]:
        """Entries: ``weight_scale``, ``weight_zero_point`` ``[out channels]``; ``input_scale``, ``input_zero_point``
        (scalars), for a matmul ``a_scale``, ``a_zero_point``, ``b_scale``, ``b_zero_point`` (scalars)."""
        state = {}
        if not site.is_matmul and bits.weight is not None:
            check_finite(site, (layer.weight,))
            rows = layer.weight.detach().flatten(1)
            scale, zero_point = affine_from_range(rows.amin(1), rows.amax(1), bits.weight)
            state |= {"weight_scale": scale, "weight_zero_point": zero_point}
        if bits.activation is not None and site.type != "patch_embed":
            check_finite(site, inputs)
            names = ("a", "b") if site.is_matmul else ("input",)
            for name, x in zip(names, inputs, strict=True):
                scale, zero_point = affine_from_range(x.amin(), x.amax(), bits.activation)
                state |= {f"{name}_scale": scale, f"{name}_zero_point": zero_point}
        return state

    def quantized_module(self, site: Site, layer: nn.Module, state: dict[str, Tensor], bits: Bits) -> nn.Module:
        def activation_format(name: str) -> AffineQuantizer | None:
            if bits.activation is None or site.type == "patch_embed":
                return None
            return AffineQuantizer(state[f"{name}_scale"], state[f"{name}_zero_point"], bits.activation)

        if site.is_matmul:
            return QuantizedMatMul(activation_format("a"), activation_format("b"))
        (weight, bias), coded = transformed_layer(layer, state), None
        if bits.weight is not None:
            coded = WeightFormat.of_state(AffineQuantizer, bits.weight, state)
            weight = coded.quantize(weight, state.get("weight_codes"))
        if isinstance(layer, nn.Conv2d):
            return QuantizedConvolution(weight, layer, weight_format=coded)
        return QuantizedLinear(weight, bias, activation_format("input"), weight_format=coded)
