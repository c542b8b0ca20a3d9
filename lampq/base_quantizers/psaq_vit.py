"""PSAQ-ViT's quantizer: ranges from minimum to maximum, for every tensor that a fully quantized model passes on.

Li et al., Patch Similarity Aware Data-Free Quantization for Vision Transformers, ECCV 2022. Its contribution are the
synthetic images that it is calibrated on; those are a data set, and any other will do here.
"""

import torch
from torch import Tensor, nn

from lampq.base_quantizers.base import BaseQuantizer
from lampq.calibration.finite_inputs import check_finite
from lampq.number_formats.uniform import AffineQuantizer, SymmetricQuantizer, affine_from_range
from lampq.number_formats.weights import WeightFormat
from lampq.plan.bits import Bits
from lampq.plan.sites import Site
from lampq.quantized_modules.convolution import QuantizedConvolution
from lampq.quantized_modules.linear import QuantizedLinear
from lampq.quantized_modules.matmul import QuantizedMatMul


class PSAQViT(BaseQuantizer):
    """Min-max quantization as PSAQ-ViT does it, at its sites.

    Weights: symmetric, one scale a row, the largest magnitude half a step beyond the last code of a signed format.
    Activations: asymmetric, one range a tensor. More tensors are quantized than the operands of products
    (`lampq.plan.sites.TENSOR_TYPES`): the image, the embeddings and their sum, the outputs of layers, both residual
    sums, the logits. A layer's bits are those of its weights and its input; these other tensors have `fixed_site_bits`.

    Attention: queries, keys and values are quantized together, as the output of qkv; the bits of the matmul `qk` are
    those of its output, the scores, and the bits of `pv` those of its own. Attention probabilities, and what enters
    the GELU, stay in full precision.
    """

    name = "psaq_vit"
    revision = 1
    minimum_bits = 2  # with one, every weight would be zero
    quantizes_tensors = True

    @torch.no_grad()
    def calibrate(self, site: Site, layer: nn.Module, inputs: tuple[Tensor, ...], bits: Bits) -> dict[str, Tensor]:
        """Entries: ``weight_scale`` ``[out channels]``; ``input_scale``, ``input_zero_point`` (scalars), for a matmul
        ``output_scale``, ``output_zero_point`` (scalars)."""
        state = {}
        if bits.weight is not None and not (site.is_matmul or site.is_tensor):
            check_finite(site, (layer.weight,))
            largest = layer.weight.detach().flatten(1).abs().amax(1)
            scale = largest / ((2**bits.weight - 1) / 2)
            usable = scale > torch.finfo(scale.dtype).tiny
            state["weight_scale"] = torch.where(usable, scale, torch.ones_like(scale))
        if bits.activation is not None and site.type != "patch_embed":
            check_finite(site, inputs)
            name, tensor = ("output", layer(*inputs)) if site.is_matmul else ("input", inputs[0])
            scale, zero_point = affine_from_range(tensor.amin(), tensor.amax(), bits.activation)
            state |= {f"{name}_scale": scale, f"{name}_zero_point": zero_point}
        return state

    @torch.no_grad()
    def quantized_module(self, site: Site, layer: nn.Module, state: dict[str, Tensor], bits: Bits) -> nn.Module:
        def activation_format(name: str) -> AffineQuantizer | None:
            if bits.activation is None:
                return None
            return AffineQuantizer(state[f"{name}_scale"], state[f"{name}_zero_point"], bits.activation)

        if site.is_matmul:
            return QuantizedMatMul(None, None, activation_format("output"))
        if site.is_tensor:
            return activation_format("input") or nn.Identity()
        weight, coded = layer.weight.detach(), None
        if bits.weight is not None:
            coded = WeightFormat.of_state(SymmetricQuantizer, bits.weight, state)
            weight = coded.quantize(weight)
        if isinstance(layer, nn.Conv2d):
            return QuantizedConvolution(weight, layer, weight_format=coded)  # the image is a site of its own
        return QuantizedLinear(weight, layer.bias, activation_format("input"), weight_format=coded)
