"""Activation formats whose scales are trained, rounding passed straight through.

Esser et al., Learned Step Size Quantization, ICLR 2020 (LSQ). Their factor on the scale's gradient is left out: Adam's
steps do not depend on it. Each format is a twin of the one that a quantized module has, with the same values.
"""

import torch
from torch import Tensor, nn

from lampq.number_formats.adalog import BASE_DENOMINATOR, SMALLEST_RATIO, AdaLogQuantizer
from lampq.number_formats.uniform import AffineQuantizer
from lampq.reconstruction.dropping import Dropping


class _Affine(torch.autograd.Function):
    """Values ``s (clip(round(x / s), -z, 2^b - 1 - z))`` where `quantized` is 1, x where it is 0."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, low: Tensor, high: Tensor, quantized: Tensor | None) -> Tensor:
        ratio = x / scale
        level = ratio.round()
        clipped = torch.minimum(torch.maximum(level, low), high)
        # 1 outside the range, 0 inside; arithmetic, since truth values are slow.
        outside = level.sub_(clipped).abs_().clamp_(max=1)
        # Derivative by the scale: the rounding error inside the range, the clipped level outside.
        slope = torch.addcmul(clipped - ratio, ratio, outside)
        y = clipped.mul_(scale)
        if quantized is not None:
            y = torch.lerp(x, y, quantized)
            outside.mul_(quantized)
            slope.mul_(quantized)
        ctx.save_for_backward(outside.neg_().add_(1), slope)
        ctx.scale_shape = scale.shape
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor):
        passed, slope = ctx.saved_tensors
        of_scale = (gradient * slope).sum_to_size(ctx.scale_shape) if ctx.needs_input_grad[1] else None
        return gradient * passed, of_scale, None, None, None


class _AdaLog(torch.autograd.Function):
    """Values ``s level[round(-(r / q) log2((x + shift) / s))] - shift`` where `quantized` is 1, x where it is 0.

    The derivative by x is that of a power of the rounded logarithm, ``value / (x + shift)``: 0 where the value is
    zero, and where x is above the scale. There, and only there, the scale has one: 1.
    """

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, format: AdaLogQuantizer, quantized: Tensor | None) -> Tensor:
        ratio = (x + format.shift).div_(scale)
        clipped = ratio.clamp(SMALLEST_RATIO, 1)
        # 1 above the scale, else 0; the smallest excess of a ratio over 1 times this is more than 1.
        above = ratio.sub_(1).mul_(2**24).clamp_(0, 1)
        codes = torch.log2(clipped).mul_(-BASE_DENOMINATOR / format.log_base).round_().clamp_(max=2**format.bits)
        levels = torch.index_select(format.levels, 0, codes.to(torch.int32).view(-1)).view(x.shape)
        y = levels * scale
        if format.shift:
            y -= format.shift
        slope = levels.div_(clipped)
        slope.addcmul_(slope, above, value=-1)
        if quantized is not None:
            y = torch.lerp(x, y, quantized)
            slope = torch.lerp(torch.ones_like(slope), slope, quantized)
            above.mul_(quantized)
        ctx.save_for_backward(slope, above)
        ctx.scale_shape = scale.shape
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor):
        slope, above = ctx.saved_tensors
        of_scale = (gradient * above).sum_to_size(ctx.scale_shape) if ctx.needs_input_grad[1] else None
        return gradient * slope, of_scale, None, None


class TrainedAffine(nn.Module):
    """An `AffineQuantizer` with a trained scale.

    Args:
        format: the format that it starts from.
        dropping: which elements are quantized.

    Attributes:
        scale: the leaf that is trained.
    """

    def __init__(self, format: AffineQuantizer, dropping: Dropping) -> None:
        super().__init__()
        self.scale = format.scale.detach().clone().requires_grad_()
        self._low = -format.zero_point
        self._high = 2**format.bits - 1 - format.zero_point
        self._dropping = dropping

    def forward(self, x: Tensor) -> Tensor:
        return _Affine.apply(x, self.scale, self._low, self._high, self._dropping.quantized(x))


class TrainedAdaLog(nn.Module):
    """An `AdaLogQuantizer` with a trained scale (or, for attention probabilities, one that stays 1).

    Its forward values are those of the format, table included; the authors train with exact powers of the base
    instead, and round to the table in the end. The shift is subtracted here, not by the layer's bias.

    Args:
        format: the format that it starts from.
        dropping: which elements are quantized.
        trained: whether the scale is trained.
    """

    def __init__(self, format: AdaLogQuantizer, dropping: Dropping, trained: bool) -> None:
        super().__init__()
        self.scale = format.scale.detach().clone().requires_grad_(trained)
        self._format = [format]  # not as a sub-module
        self._dropping = dropping

    def forward(self, x: Tensor) -> Tensor:
        return _AdaLog.apply(x, self.scale, self._format[0], self._dropping.quantized(x))
