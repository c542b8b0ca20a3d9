"""A LayerNorm as an affine-free RMSNorm: what it scales, shifts and centres is done by the layers around it.

``LN(x) = RMSNorm(x M) diag(gamma) + beta`` with ``M = I - 1 1' / C``: gamma and beta go into the layers that read it, M
into all that write what it reads. An RMSNorm commutes with rotations, which a LayerNorm does not.
"""

from torch import Tensor, nn

from lampq.transform.folding import in_float64, replace


def centred(x: Tensor, axis: int = -1) -> Tensor:
    """``x M``, the vectors along an axis taken as rows."""
    return x - x.mean(axis, keepdim=True)


def fold_layernorm(norm: nn.LayerNorm, readers: list[nn.Linear]) -> nn.RMSNorm:
    """Fold gamma and beta of a norm into the linear layers that alone read it.

    ``W <- W diag(gamma)`` and ``b <- b + W beta``; a layer without bias gets one.

    Returns:
        The norm that takes its place, with the same epsilon. Its input has to be centred.
    """
    for layer in readers:
        weight = layer.weight.detach().double()
        if norm.bias is not None:
            shift = (weight * norm.bias.detach().double()).sum(1)
            replace(layer, "bias", shift if layer.bias is None else layer.bias.detach().double() + shift, layer.weight)
        if norm.weight is not None:
            scale = norm.weight.detach().double()
            in_float64(layer, weight=lambda w, scale=scale: w * scale)
    return nn.RMSNorm(norm.normalized_shape, norm.eps, elementwise_affine=False).eval()


def fold_layer_scale(scale: nn.Module, layer: nn.Linear) -> nn.Identity:
    """Fold the factors behind a projection into it: ``W <- diag(gamma) W`` and ``b <- diag(gamma) b``."""
    gamma = scale.gamma.detach().double()
    in_float64(layer, weight=lambda w: w * gamma[:, None], bias=lambda b: b * gamma)
    return nn.Identity()
