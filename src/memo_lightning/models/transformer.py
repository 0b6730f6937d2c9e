"""The transformer that all attention-based memories share: they differ in what a token may attend to.

Pre-norm blocks with RMSNorm, a gated MLP with tanh-GELU, rotary positions and no biases (METHOD: the block of
the paper's Habitat policy). What is attended to is decided by a :class:`Context`, which every layer hands
its new keys and values to and which answers with all those to be seen.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memo_lightning.models.rotary import RotaryEmbedding, rotate


class Context(Protocol):
    """Decides what the tokens of one pass attend to."""

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take a layer's new keys and values ``[B, H, t, d]``; return those to attend to ``[B, H, k, d]``."""
        ...


class FeedForward(nn.Module):
    """Gated MLP with tanh-GELU (Shazeer 2020, arXiv 2002.05202): ``[..., D] -> [..., D]``."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)  # both projections in one matrix product
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last dimension."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.gelu(gate, approximate="tanh") * up)


class Attention(nn.Module):
    """Multi-head attention, in two halves: project here, attend there; the context comes in between."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries and keys, and values, ``[B, H, t, d]`` each, of ``x [B, t, D]``."""
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)  # (3, B, H, t, d)
        queries, keys = rotate(qkv[:2], cos, sin).unbind(0)
        return queries, keys, qkv[2]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Return ``[B, t, D]``: what the ``queries [B, H, t, d]`` read from ``keys, values [B, H, k, d]``.

        Without a ``mask`` the queries are the last ``t`` of the ``k`` tokens, and causal.
        """
        length, context_length = queries.shape[-2], keys.shape[-2]
        is_causal = mask is None and length == context_length > 1
        if mask is None and 1 < length < context_length:
            mask = _lower_right_causal(length, context_length, queries.device)
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=is_causal)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, d_model: int, n_heads: int, d_ff: int, norm_eps: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(d_model, eps=norm_eps)
        self.attention = Attention(d_model, n_heads)
        self.feed_forward_norm = nn.RMSNorm(d_model, eps=norm_eps)
        self.feed_forward = FeedForward(d_model, d_ff)

    def forward(
        self, x: Tensor, layer: int, context: Context, cos: Tensor, sin: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Map ``x [B, t, D]`` to ``[B, t, D]``."""
        queries, keys, values = self.attention.project(self.attention_norm(x), cos, sin)
        keys, values = context.extend(layer, keys, values)
        x = x + self.attention.attend(queries, keys, values, mask)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(nn.Module):
    """A stack of blocks and a final norm.

    Args:
        d_model: width D; a multiple of ``n_heads``.
        n_layers: number of blocks.
        n_heads: attention heads H.
        d_ff: inner width of the gated MLP.
        rope_base: base of the rotary frequencies.
        norm_eps: epsilon of all RMSNorms.

    Raises:
        ValueError: if a size is not positive, or ``d_model`` is no multiple of ``n_heads``.
    """

    def __init__(
        self, d_model: int, n_layers: int, n_heads: int, d_ff: int, rope_base: float = 10000.0, norm_eps: float = 1e-6
    ) -> None:
        super().__init__()
        sizes = {"d_model": d_model, "n_layers": n_layers, "n_heads": n_heads, "d_ff": d_ff}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}={size}: must be at least 1")
        if d_model % n_heads:
            raise ValueError(f"d_model={d_model}: must be divisible by n_heads={n_heads}")
        self.n_layers, self.n_heads, self.head_dim = n_layers, n_heads, d_model // n_heads
        self.rotary = RotaryEmbedding(self.head_dim, rope_base)
        self.blocks = nn.ModuleList(Block(d_model, n_heads, d_ff, norm_eps) for _ in range(n_layers))
        self.norm = nn.RMSNorm(d_model, eps=norm_eps)

    def forward(self, x: Tensor, positions: Tensor, context: Context, mask: Tensor | None = None) -> Tensor:
        """Run tokens through all layers.

        Args:
            x: tokens ``[B, t, D]``.
            positions: their positions, ``[t]`` or, where rows differ, ``[B, 1, t]``.
            context: takes each layer's keys and values and says what is attended to.
            mask: bool ``[B, 1, t, k]``, true where a token may attend; by default the tokens are the last
                ``t`` of the context's ``k``, and causal.

        Returns:
            Normed outputs ``[B, t, D]``.
        """
        cos, sin = self.rotary(positions, x.dtype)
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, context, cos, sin, mask)
        return self.norm(x)


def _lower_right_causal(length: int, context_length: int, device: torch.device) -> Tensor:
    """Return the bool mask ``[length, context_length]`` of causal tokens behind a context that all of them see."""
    mask = torch.ones(length, context_length, dtype=torch.bool, device=device)
    return mask.tril(context_length - length)
