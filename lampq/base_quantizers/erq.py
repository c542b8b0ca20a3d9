"""ERQ: the errors of quantized activations and of quantized weights, reduced by ridge regression one after the other.

Zhong et al., ERQ: Error Reduction for Post-Training Quantization of Vision Transformers, ICML 2024; with two scales a
row, Zhong et al., Towards Accurate Post-Training Quantization of Vision Transformers via Error Reduction, TPAMI 2025.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lampq.base_quantizers.repq_activations import LinearProblem, RepQActivations
from lampq.calibration.candidates import sorted_quantiles
from lampq.calibration.percentile_clipping import affine_between, clipped_range
from lampq.calibration.rounding_refinement import refined_codes
from lampq.calibration.row_output_error import gram
from lampq.parts import same, setting
from lampq.plan.bits import Bits
from lampq.plan.sites import Site

FRACTIONS = (0.97, 0.98, 0.99, 0.995, 0.9995, 0.9997, 0.9999, 0.99995, 0.99999, 1.0)
"""Ranges tried for weights, as in `lampq.calibration.percentile_clipping`."""

RIDGE, HEAD_RIDGE, CONVOLUTION_FACTOR = 0.1, 0.1, 10
"""Regularisation: a layer's for each unit of `coe`, the head's when activations are compensated (whatever `coe`), and
how many times as much the patch embedding has."""

OUTLIER_FRACTION, ROWS_AN_OUTLIER = 0.99, 20
"""A weight is an outlier above this quantile of its row's positive ones (below the mirror image of the negative ones);
a layer has one outlying input channel for so many output channels."""


class ERQ(RepQActivations):
    """Activations as `RepQActivations` says, but for patch merging, whose input keeps one plain format, and the image,
    which stays in full precision.

    Weights and bias are first changed so that they make up for what quantizing the input does (Aqer), then rounded by
    halves, each half's error made up for by the columns that are left (Wqer). Both look at a layer's inputs in the
    full-precision network, through the input's number format. Activations are observed, as in the authors' code,
    with activations quantized before them and weights in full precision.

    Args:
        inputs, search, literal, image_bits, channel_bound: as in `RepQActivations`.
        coe: strength of the regularisation; 10,000 in the authors' examples, 20,000 their command's default.
        two_scales: input channels of layers after a LayerNorm with outlying weights get a scale of their own in every
            row (TPAMI 2025, and the released code); false: as in the paper of 2024.
        turns: how many weights of a row may be rounded the other way, for each half.

    Raises:
        LampQError: a value out of its range.
    """

    name = "erq"
    revision = 2
    stores_weights = True
    weights_on_full_precision = True

    image_bits: int | None = same(RepQActivations, "image_bits", default=None)
    coe: float = setting(10_000, above=0)
    two_scales: bool = True
    turns: int = setting(100, minimum=0)

    def reparameterizes(self, site: Site) -> bool:
        return site.after_layernorm and site.allocated

    def calibrate_weight(self, problem: LinearProblem, bits: int) -> dict[str, Tensor]:
        """Entries: ``weight_codes`` ``[out channels, in channels]``, ``weight_scale``, ``weight_zero_point``
        ``[out channels, groups]``, with two groups ``weight_group`` ``[in channels]`` (0 or 1), and ``bias``."""
        convolution = isinstance(problem.layer, nn.Conv2d)
        x, quantized, columns = problem.rows(), problem.quantized_rows(), problem.weight.double()
        if problem.bias is not None:
            # The bias is a column that multiplies with one; it is compensated with, and never rounded.
            columns = torch.cat([columns, problem.bias.double()[:, None]], 1)
            x, quantized = functional.pad(x, (0, 1), value=1.0), functional.pad(quantized, (0, 1), value=1.0)
        moments = gram(quantized, quantized)
        ridge = RIDGE * self.coe
        if not convolution:
            activation_ridge = HEAD_RIDGE if problem.inputs.dim() == 2 else ridge
            columns = compensated_for_activations(columns, moments, gram(quantized, x - quantized), activation_ridge)
        width = problem.weight.shape[1]
        state = self._grid(problem, columns[:, :width].to(problem.weight.dtype), bits)
        scale, zero_point = (parameter.double() for parameter in _of_every_weight(state, width))
        codes, columns = rounded_by_halves(
            columns,
            moments,
            len(x),
            scale,
            zero_point,
            bits,
            ridge * (CONVOLUTION_FACTOR if convolution else 1),
            self.turns,
        )
        state["weight_codes"] = codes.to(torch.uint8)
        if problem.bias is not None:
            state["bias"] = columns[:, -1].to(problem.weight.dtype)
        return state

    @torch.no_grad()
    def upstream_module(self, site: Site, layer: nn.Module, state: dict[str, Tensor], bits: Bits) -> nn.Module:
        """Weights in full precision, and one input format a channel after a LayerNorm."""
        if "channel_scale" in state:
            return self.channel_wise_module(layer, layer.weight.detach(), state, bits.activation)
        return super().upstream_module(site, layer, state, Bits(None, bits.activation))

    def _grid(self, problem: LinearProblem, weight: Tensor, bits: int) -> dict[str, Tensor]:
        groups = [torch.arange(weight.shape[1], device=weight.device)]
        state = {}
        if self.two_scales and self.reparameterizes(problem.site):
            outlying = outlying_channels(weight)
            if outlying.any():
                state["weight_group"] = outlying.to(torch.uint8)
                groups = [groups[0][~outlying], groups[0][outlying]]
        formats = [affine_between(*clipped_range(weight[:, group], bits, FRACTIONS), bits) for group in groups]
        state["weight_scale"], state["weight_zero_point"] = (
            torch.stack(parameters, 1) for parameters in zip(*formats, strict=True)
        )
        return state


def compensated_for_activations(weight: Tensor, moments: Tensor, error: Tensor, ridge: float) -> Tensor:
    """Weights that give on quantized inputs what the original ones give on the inputs themselves, as far as they can.

    The change ``(Q'Q + ridge)^-1 Q' (X - Q) W'`` of W' is the least squares solution of the output error, with a
    penalty on its size (Aqer).

    Args:
        weight: W, ``[out channels, columns]``.
        moments: ``Q'Q`` of the quantized inputs Q, ``[columns, columns]``.
        error: ``Q'(X - Q)``, ``[columns, columns]``.
        ridge: added to the diagonal.

    Returns:
        ``[out channels, columns]``
    """
    return weight + (_ridge_solution(moments, error, ridge) @ weight.T).T


def rounded_by_halves(
    weight: Tensor,
    moments: Tensor,
    samples: int,
    scale: Tensor,
    zero_point: Tensor,
    bits: int,
    ridge: float,
    turns: int,
) -> tuple[Tensor, Tensor]:
    """Round the first half of the columns, let the other half make up for it, and go on with that half (Wqer).

    Args:
        weight: ``[out channels, columns]``, the last of them possibly the bias, which is not rounded.
        moments: ``Q'Q`` of the quantized inputs Q, ``[columns, columns]``.
        samples: how many inputs there are.
        scale, zero_point: affine grid of every weight that is rounded, ``[out channels, columns that are rounded]``.
        bits, turns: as in `refined_codes`.
        ridge: added to the diagonal.

    Returns:
        codes ``[out channels, columns that are rounded]`` and the weights after rounding, ``[out channels, columns]``.
    """
    weight = weight.clone()
    codes = torch.empty_like(scale)
    proxy = second_moments(moments, samples, scale.shape[1] < weight.shape[1])
    start, total, rounded = 0, weight.shape[1], scale.shape[1]
    while start < rounded:
        stop = min(rounded, start + max(1, (total - start) // 2))
        part, rest = slice(start, stop), slice(stop, total)
        grid = scale[:, part], zero_point[:, part]
        codes[:, part] = refined_codes(weight[:, part], proxy[part, part], *grid, bits, turns)
        error = (codes[:, part] - grid[1]) * grid[0] - weight[:, part]
        weight[:, part] += error
        if stop < total:
            weight[:, rest] -= (_ridge_solution(moments[rest, rest], moments[rest, part], ridge) @ error.T).T
        start = stop
    return codes, weight


def second_moments(moments: Tensor, samples: int, has_ones: bool) -> Tensor:
    """``mean mean' + covariance`` of inputs, from ``Q'Q``; the covariance as estimated from a sample, as published.

    Args:
        has_ones: whether the last column of Q is one, which is what the mean is read from; else ``Q'Q / samples``.
    """
    plain = moments / samples
    if not has_ones or samples < 2:
        return plain
    mean = plain[-1]
    return plain + (plain - mean[:, None] * mean) / (samples - 1)


def outlying_channels(weight: Tensor) -> Tensor:
    """The input channels that hold outliers in most rows, bool ``[in channels]``.

    As many as a twentieth of the output channels; of equals, those that come first.

    Args:
        weight: ``[out channels, in channels]``.
    """
    outliers = torch.zeros_like(weight, dtype=torch.bool)
    for sign in (1, -1):
        for row, values in enumerate(sign * weight):
            side = values[values > 0].sort().values
            if side.numel():
                outliers[row] |= values > sorted_quantiles(side[None], (OUTLIER_FRACTION,))[0]
    rows, channels = weight.shape
    count = min(channels - 1, rows // ROWS_AN_OUTLIER)
    chosen = torch.argsort(outliers.sum(0), descending=True, stable=True)[:count]
    return torch.zeros(channels, dtype=torch.bool, device=weight.device).index_fill(0, chosen, True)


def _of_every_weight(state: dict[str, Tensor], columns: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of every weight, ``[out channels, columns]``."""
    group = state.get("weight_group")
    if group is None:
        group = torch.zeros(columns, dtype=torch.uint8, device=state["weight_scale"].device)
    index = group.long()
    return state["weight_scale"][:, index], state["weight_zero_point"][:, index]


def _ridge_solution(moments: Tensor, right: Tensor, ridge: float) -> Tensor:
    """``(moments + ridge)^-1 right``"""
    damped = moments.clone()
    damped.diagonal().add_(ridge)
    return torch.cholesky_solve(right, torch.linalg.cholesky(damped))
