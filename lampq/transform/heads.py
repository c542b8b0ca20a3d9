"""Rotations inside each head of an attention: scores and outputs stay what they are.

``(q R)(k R)' = q k'``, and ``A (v R) R' = A v``: R is folded into the rows of the query, key and value projections, and
its inverse into the columns of the output projection.
"""

from torch import Tensor, nn

from lampq.errors import LampQError
from lampq.quantized_modules.attention import ExplicitAttention, ExplicitWindowAttention
from lampq.transform.folding import in_float64
from lampq.transform.rotation_matrix import check_dimension, random_signs, rotated

Attention = ExplicitAttention | ExplicitWindowAttention


def attentions(network: nn.Module) -> dict[str, Attention]:
    """All attentions of a network, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, Attention)}


def check_heads(name: str, attention: Attention) -> None:
    """See that nothing stands between projections and products that a rotation does not pass through.

    Raises:
        LampQError: names it.
    """
    for part in ("q_norm", "k_norm", "norm", "gate"):
        module = getattr(attention, part, None)
        if module is not None and not isinstance(module, nn.Identity):
            raise LampQError(
                f"transform=hadamard: {name} has a {part}, through which heads cannot be rotated; choose "
                "transform.heads=false, or transform=none"
            )
    check_dimension(f"a head of {name}", attention.qkv.out_features // 3 // attention.num_heads)


def rotate_heads(attention: Attention, *seed: int) -> None:
    """R2 for queries and keys, R3 for values, of every head.

    Args:
        seed: of the signs.
    """
    heads, qkv, proj = attention.num_heads, attention.qkv, attention.proj
    width = qkv.out_features // 3 // heads
    signs = random_signs((2, heads, width), *seed)
    of_rows = signs[[0, 0, 1]]  # q and k share theirs

    def rows(x: Tensor) -> Tensor:
        """Rows of a projection, ``[3 * heads * width, ...]``."""
        split = x.reshape(3, heads, width, -1).movedim(3, 0)
        return rotated(split, of_rows).movedim(0, 3).reshape(x.shape)

    def columns(x: Tensor) -> Tensor:
        """``[out channels, heads * width]``"""
        return rotated(x.reshape(-1, heads, width), signs[1]).reshape(x.shape)

    in_float64(qkv, weight=rows, bias=rows)
    in_float64(proj, weight=columns)
