"""Differential entropy of samples by a Gaussian kernel density estimate, with its gradient."""

import math
from typing import Any

import torch
from torch import Tensor

FLOOR = 1e-4
"""Added to the density, so that its logarithm exists where no sample is near."""
VANISHING = -80.0
"""Exponents below are taken as this one: beside `FLOOR` either is nothing in float32, but one that underflows takes
fourteen times as long."""
KERNELS = 1 << 18
"""Kernel values held at once (1 MiB of float32, in the cache): bounds the memory, changes nothing."""


def evaluation_points(samples: Tensor, points: int) -> Tensor:
    """``[points]``, evenly spaced from the smallest to the largest of all samples; plain numbers without gradient."""
    low, high = samples.detach().aminmax()
    return torch.linspace(low.item(), high.item(), points, dtype=samples.dtype, device=samples.device)


def differential_entropy(samples: Tensor, counts: Tensor, grid: Tensor, bandwidth: float) -> Tensor:
    """Differential entropy, in nats, of each set of samples.

    The density of a set is a mean of normal densities around its samples, plus `FLOOR`; minus the density times its
    logarithm is integrated over the grid by trapezoids. A grid of no width (all samples equal) gives entropy 0.

    Kernels are evaluated once, set by set: what is kept for the backward pass is the gradient, of the samples' size.

    Args:
        samples: ``[sets, samples]``.
        counts: how often each sample counts, ``[samples]``, the same in all sets.
        grid: where the density is evaluated, ``[points]``, evenly spaced, ascending.
        bandwidth: standard deviation of a kernel.

    Returns:
        ``[sets]``

    Source: PSAQ-ViT (Li et al., ECCV 2022), patch similarity entropy.
    """
    return _Entropy.apply(samples, counts, grid, bandwidth)


class _Entropy(torch.autograd.Function):
    """H = sum_k v_k (-f_k log f_k), with f_k = FLOOR + sum_i c_i exp(-(s_i - x_k)^2 / 2 h^2) / (h sqrt(2 pi) sum c)."""

    @staticmethod
    def forward(ctx: Any, samples: Tensor, counts: Tensor, grid: Tensor, bandwidth: float) -> Tensor:
        volumes = torch.full_like(grid, ((grid[-1] - grid[0]) / (len(grid) - 1)).item())
        volumes[0], volumes[-1] = volumes[0] / 2, volumes[-1] / 2
        scale = 1 / (bandwidth * math.sqrt(2 * math.pi) * counts.sum().item())
        entropies = samples.new_empty(len(samples))
        gradient = torch.empty_like(samples)
        together = max(1, KERNELS // (len(grid) * samples.shape[1]))
        for start in range(0, len(samples), together):
            part = slice(start, start + together)
            distance = samples[part, None, :] - grid[:, None]
            kernels = (distance * distance).mul_(-0.5 / bandwidth**2).clamp_(min=VANISHING).exp_().mul_(counts)
            density = kernels.sum(-1).mul_(scale).add_(FLOOR)
            entropies[part] = -(density * density.log() * volumes).sum(-1)
            slope = (density.log() + 1) * volumes * (scale / bandwidth**2)  # of -H in f_k, times that of a kernel
            gradient[part] = kernels.mul_(distance).mul_(slope[..., None]).sum(1)
        ctx.save_for_backward(gradient)
        return entropies

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None], None, None, None
