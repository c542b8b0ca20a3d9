"""The product of two activations inside attention, in full precision or with quantized operands."""

from torch import Tensor, nn


class MatMul(nn.Module):
    """Full-precision matrix product as a module, so that attention matmuls are sites with a name."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """``[..., rows, inner] @ [..., inner, columns] -> [..., rows, columns]``"""
        return a @ b


class QuantizedMatMul(nn.Module):
    """Matrix product of two fake-quantized operands.

    Args:
        quantize_a, quantize_b: number formats applied to the operands; None leaves an operand in full precision.
        quantize_output: number format of the product, or None for full precision.
    """

    def __init__(
        self,
        quantize_a: nn.Module | None,
        quantize_b: nn.Module | None,
        quantize_output: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.quantize_a = quantize_a
        self.quantize_b = quantize_b
        self.quantize_output = quantize_output

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """``[..., rows, inner] @ [..., inner, columns] -> [..., rows, columns]``"""
        if self.quantize_a is not None:
            a = self.quantize_a(a)
        if self.quantize_b is not None:
            b = self.quantize_b(b)
        product = a @ b
        return product if self.quantize_output is None else self.quantize_output(product)
