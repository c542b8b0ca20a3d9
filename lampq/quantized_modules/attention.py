"""Attention whose two matmuls are modules, so that their operands can be quantized.

timm computes attention either by a fused kernel, in which softmax and both products are out of reach, or by inline
products. These modules take over the weights of timm's attention, keep its attribute names (so site names are
timm's) and compute the same function with the products as sub-modules `qk` and `pv`. What the layers give passes
through `qkv_output` and `proj_output`, which hand it on: points at which these tensors can be quantized by themselves.
"""

from torch import Tensor, nn

from lampq.errors import LampQError
from lampq.quantized_modules.matmul import MatMul


class ExplicitAttention(nn.Module):
    """Multi-head self-attention of ViT and DeiT: softmax(q k^T / sqrt(d_head)) v.

    The factor 1/sqrt(d_head) is applied after the product, so that the quantized operands are q and k themselves.

    Args:
        attention: timm's `Attention`; its sub-modules are shared, not copied.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = attention.num_heads, attention.head_dim, attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm
        self.norm = attention.norm
        self.gate = getattr(attention, "gate", None)
        self.qk, self.pv = MatMul(), MatMul()
        self.qkv_output, self.proj_output = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """``[images, tokens, channels] -> [images, tokens, channels]``; timm's block passes mask and causality by name.

        Raises:
            LampQError: masked or causal attention, which classifiers do not use.
        """
        if attn_mask is not None or is_causal:
            raise LampQError("masked attention is not supported; choose an image classifier without attention masks")
        images, tokens, _ = x.shape
        heads = (
            self.qkv_output(self.qkv(x))
            .reshape(images, tokens, 3, self.num_heads, self.head_dim)
            .permute(2, 0, 3, 1, 4)
        )
        q, k, v = heads.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        attention = (self.qk(q, k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        out = self.norm(self.pv(attention, v).transpose(1, 2).reshape(images, tokens, -1))
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()
        return self.proj_output(self.proj(out))


class ExplicitWindowAttention(nn.Module):
    """Window attention of Swin: softmax((q / sqrt(d_head)) k^T + relative position bias + mask) v.

    q is scaled before the product, as in the published code, so its quantizer sees the scaled q.

    Args:
        attention: timm's `WindowAttention` or mmdet's `WindowMSA`; its sub-modules and position biases are shared, not
            copied.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.window_area = len(attention.relative_position_index)
        self.qkv, self.proj = attention.qkv, attention.proj
        self.relative_position_bias_table = attention.relative_position_bias_table
        self.register_buffer("relative_position_index", attention.relative_position_index, persistent=False)
        self.qk, self.pv = MatMul(), MatMul()
        self.qkv_output, self.proj_output = nn.Identity(), nn.Identity()
        self.position_bias, self.biased_scores = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[images * windows, tokens, channels] -> [images * windows, tokens, channels]``

        Args:
            mask: ``[windows, tokens, tokens]``, 0 or a large negative number, or None.
        """
        windows, tokens, _ = x.shape
        heads = self.qkv_output(self.qkv(x)).reshape(windows, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind(0)
        scores = self.qk(q * self.scale, k.transpose(-2, -1)) + self.relative_position_bias()
        scores = self.biased_scores(scores)
        if mask is not None:
            scores = scores.view(-1, mask.shape[0], self.num_heads, tokens, tokens) + mask.unsqueeze(1).unsqueeze(0)
            scores = scores.view(-1, self.num_heads, tokens, tokens)
        out = self.pv(scores.softmax(dim=-1), v)
        return self.proj_output(self.proj(out.transpose(1, 2).reshape(windows, tokens, -1)))

    def relative_position_bias(self) -> Tensor:
        """``[1, heads, tokens, tokens]``"""
        bias = self.position_bias(self.relative_position_bias_table)[self.relative_position_index.reshape(-1)]
        return bias.view(self.window_area, self.window_area, -1).permute(2, 0, 1).unsqueeze(0)
