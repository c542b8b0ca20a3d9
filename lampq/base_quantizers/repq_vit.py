"""RepQ-ViT: percentile ranges, LayerNorm scales reparameterized, attention probabilities as powers of sqrt 2.

Li et al., RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision Transformers, ICCV 2023.
"""

import torch
from torch import Tensor, nn

from lampq.base_quantizers.repq_activations import LinearProblem, RepQActivations
from lampq.calibration.percentile_clipping import affine_between, clipped_range
from lampq.number_formats.uniform import fake_quantize_affine
from lampq.plan.bits import Bits
from lampq.plan.sites import Site


class RepQViT(RepQActivations):
    """Activations as `RepQActivations` says; weights uniform asymmetric, one range a row, clipped like them."""

    name = "repq_vit"
    revision = 1

    def calibrate_weight(self, problem: LinearProblem, bits: int) -> dict[str, Tensor]:
        """Entries: ``weight_scale``, ``weight_zero_point`` ``[out channels]``."""
        scale, zero_point = _clipped(problem.weight, bits)
        return {"weight_scale": scale, "weight_zero_point": zero_point}

    @torch.no_grad()
    def upstream_module(self, site: Site, layer: nn.Module, state: dict[str, Tensor], bits: Bits) -> nn.Module:
        """A layer after a LayerNorm still has one format a channel, and weights that are rounded as they are: the
        authors observe all activations first and reparameterize then."""
        if "channel_scale" not in state:
            return super().upstream_module(site, layer, state, bits)
        weight = layer.weight.detach()
        if bits.weight is not None:
            weight = fake_quantize_affine(weight, *(p[:, None] for p in _clipped(weight, bits.weight)), bits.weight)
        return self.channel_wise_module(layer, weight, state, bits.activation)


def _clipped(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    return affine_between(*clipped_range(weight, bits), bits)
