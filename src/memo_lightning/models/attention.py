"""Multi-head attention in which a context decides what each token attends to."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right

from memo_lightning.models.projection import projection
from memo_lightning.models.rotary import rotate

KeysValues = tuple[Tensor, Tensor]
"""Keys and values ``[B, H, k, d]`` of some tokens in one layer."""

LayerKeysValues = list[KeysValues]
"""The keys and values of some tokens, layer by layer."""


class Context(Protocol):
    """What the tokens of one pass attend to: this is where memories differ."""

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the attention output of a layer's queries, keys and values, all ``[B, H, t, d]``."""
        ...


class StepContext(Protocol):
    """What one token of every sequence attends to while acting."""

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the attention output of a layer's queries, keys and values, all ``[B, H, d]``."""
        ...


class Attention(nn.Module):
    """Multi-head attention with rotary positions and, optionally, Sink-KV.

    Sink-KV is one learned key and value per head that every token sees. The key is not rotated. Contexts prepend the
    sink, so that a cache can hold it once.

    Args:
        d_model: width D; a multiple of ``n_heads``.
        n_heads: attention heads H.
        sink_kv: whether to have a sink key and value.
    """

    def __init__(self, d_model: int, n_heads: int, sink_kv: bool = False) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = projection(d_model, 3 * d_model)
        self.out = projection(d_model, d_model)
        shape = (1, n_heads, 1, d_model // n_heads)
        self.sink_key = nn.Parameter(0.02 * torch.randn(shape)) if sink_kv else None
        self.sink_value = nn.Parameter(0.02 * torch.randn(shape)) if sink_kv else None

    @property
    def sink(self) -> KeysValues | None:
        """The sink's key and value ``[1, H, 1, d]``; None if there is no sink."""
        if self.sink_key is None or self.sink_value is None:
            return None
        return self.sink_key, self.sink_value

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries, keys and values ``[B, H, t, d]`` of ``x [B, t, D]``.

        ``cos`` and ``sin [..., t, d / 2]`` encode the positions.
        """
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)  # (3, B, H, t, d)
        queries, keys = rotate(qkv[:2], cos, sin).unbind(0)
        return queries, keys, qkv[2].clone()  # a view would keep all three alive for the backward pass

    def join_heads(self, attended: Tensor) -> Tensor:
        """Map what the tokens have ``attended [B, H, t, d]`` to the outputs ``[B, t, D]``."""
        return self.out(attended.transpose(1, 2).flatten(2))

    def step(self, x: Tensor, layer: int, context: StepContext, cos: Tensor, sin: Tensor) -> Tensor:
        """Map one token of every sequence, ``x [B, D]``, to ``[B, D]``.

        ``cos`` and ``sin [B or 1, 1, 1, d]`` are those of :meth:`project`, repeated for both halves of a head, with the
        first ``sin`` negated. Rolling a head by half its width then pairs the components that rotate together.
        """
        qkv = self.qkv(x).view(len(x), 3, self.n_heads, -1)
        to_rotate = qkv[:, :2]
        rotated = torch.addcmul(to_rotate * cos, to_rotate.roll(cos.shape[-1] // 2, -1), sin)
        y = context.attend(layer, rotated[:, 0], rotated[:, 1], qkv[:, 2])
        return self.out(y.flatten(1))


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the attention output ``[B, H, t, d]`` of ``queries [B, H, t, d]`` over ``keys, values [B, H, k, d]``.

    The queries are the last ``t`` of the ``k`` tokens, unless a ``mask`` says which tokens each query sees.
    """
    length, context_length = queries.shape[2], keys.shape[2]
    if mask is None and length == context_length > 1:
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    if mask is None and 1 < length < context_length:
        # With a dense mask, torch would not choose CUDA's flash kernel.
        is_cuda = queries.device.type == "cuda"
        mask = causal_lower_right(length, context_length) if is_cuda else causal_mask(length, context_length, queries)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


def causal_mask(length: int, context_length: int, like: Tensor) -> Tensor:
    """Return the additive mask ``[length, context_length]`` of causal tokens after a context that all of them see."""
    mask = like.new_full((length, context_length), -torch.inf)
    return mask.triu_(context_length - length + 1)


def prepend_sink(sink: KeysValues | None, keys: Tensor, values: Tensor) -> KeysValues:
    """Prepend the layer's ``sink``, if there is one, to ``keys, values [B, H, k, d]``."""
    if sink is None:
        return keys, values
    sink_key, sink_value = (part.to(keys.dtype).expand(keys.shape[0], -1, -1, -1) for part in sink)
    return torch.cat([sink_key, keys], dim=2), torch.cat([sink_value, values], dim=2)
