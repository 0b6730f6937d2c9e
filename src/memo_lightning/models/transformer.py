"""The transformer that all attention-based memories share; they differ in what a token may attend to.

Its blocks are those of Memo's Habitat policy: pre-norm with RMSNorm, a gated MLP with tanh-GELU, rotary positions and
no biases. Every layer passes its queries, keys and values to a :class:`~memo_lightning.models.attention.Context`, which
decides what they attend to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from memo_lightning.models.attention import Attention, Context, KeysValues, StepContext
from memo_lightning.models.feed_forward import FeedForward
from memo_lightning.models.rms_norm import RMSNorm
from memo_lightning.models.rotary import RotaryEmbedding


class _RequiredSizes(TypedDict):
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int


class TransformerSizes(_RequiredSizes, total=False):
    """The arguments of :class:`Transformer`, which every model built on one passes on."""

    sink_kv: bool
    rope_base: float
    norm_eps: float
    layer_drop: float


class Block(nn.Module):
    """One pre-norm transformer layer.

    Attributes:
        compiles_updates: whether passes with gradient run compiled, except for attention.
    """

    compiles_updates = False

    def __init__(self, d_model: int, n_heads: int, d_ff: int, norm_eps: float, sink_kv: bool = False) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(d_model, eps=norm_eps)
        self.attention = Attention(d_model, n_heads, sink_kv)
        self.feed_forward_norm = RMSNorm(d_model, eps=norm_eps)
        self.feed_forward = FeedForward(d_model, d_ff)

    def forward(self, x: Tensor, layer: int, context: Context, cos: Tensor, sin: Tensor) -> Tensor:
        """Map ``x [B, t, D]`` to ``[B, t, D]``."""
        before, after = Block.before_attention, Block.after_attention
        if self.compiles_updates and torch.is_grad_enabled():
            before, after = _compiled(before), _compiled(after)
        return after(self, x, context.attend(layer, *before(self, x, cos, sin)))

    def before_attention(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries, keys and values ``[B, H, t, d]`` of ``x [B, t, D]``; see :meth:`Attention.project`."""
        return self.attention.project(self.attention_norm(x), cos, sin)

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the outputs ``[B, t, D]`` of a layer whose tokens ``x [B, t, D]`` have ``attended [B, H, t, d]``."""
        x = x + self.attention.join_heads(attended)
        return x + self.feed_forward(self.feed_forward_norm(x))

    def step(self, x: Tensor, layer: int, context: StepContext, cos: Tensor, sin: Tensor) -> Tensor:
        """Map one token of every sequence, ``x [B, D]``, to ``[B, D]``; see :meth:`Attention.step`."""
        x = x + self.attention.step(self.attention_norm(x), layer, context, cos, sin)
        return x + self.feed_forward(self.feed_forward_norm(x))


@cache
def _compiled(part: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``part`` compiled; blocks of the same sizes share the program."""
    return torch.compile(part, dynamic=True)


class Transformer(nn.Module):
    """A stack of blocks and a final norm.

    Args:
        d_model: width D; a multiple of ``n_heads``.
        n_layers: number of blocks.
        n_heads: attention heads H.
        d_ff: inner width of the gated MLP.
        sink_kv: whether every layer has a learned sink key and value.
        rope_base: base of the rotary frequencies.
        norm_eps: epsilon of all RMSNorms.
        layer_drop: probability that a training pass skips a block; see :meth:`draw_dropped_layers`.

    Raises:
        ValueError: if a size is not positive, ``d_model`` is not a multiple of ``n_heads``, or ``layer_drop`` is not
            at least 0 and below 1.
    """

    def __init__(
        self,
        d_model: int,
        n_layers: int,
        n_heads: int,
        d_ff: int,
        sink_kv: bool = False,
        rope_base: float = 10000.0,
        norm_eps: float = 1e-6,
        layer_drop: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(d_model=d_model, n_layers=n_layers, n_heads=n_heads, d_ff=d_ff)
        if d_model % n_heads:
            raise ValueError(f"d_model={d_model}: must be divisible by n_heads={n_heads}")
        if not 0 <= layer_drop < 1:
            raise ValueError(f"layer_drop={layer_drop}: must be at least 0 and below 1")
        self.layer_drop = layer_drop
        self.n_layers, self.n_heads, self.head_dim = n_layers, n_heads, d_model // n_heads
        self.sink_kv = sink_kv
        self.rotary = RotaryEmbedding(self.head_dim, rope_base)
        self.blocks = nn.ModuleList(Block(d_model, n_heads, d_ff, norm_eps, sink_kv) for _ in range(n_layers))
        self.norm = RMSNorm(d_model, eps=norm_eps)

    def forward(self, x: Tensor, positions: Tensor, context: Context, dropped: Sequence[int] = ()) -> Tensor:
        """Run tokens through all layers that are not dropped.

        Args:
            x: tokens ``[B, t, D]``.
            positions: their positions, ``[t]`` or, if sequences differ, ``[B, 1, t]``.
            context: decides what the tokens attend to; it numbers only the layers that are not dropped.
            dropped: numbers of the layers to skip.

        Returns:
            Outputs ``[B, t, D]`` after the final norm.
        """
        cos, sin = self.rotary(positions, torch.promote_types(x.dtype, torch.float32))
        for layer, block in enumerate(self._remaining(dropped)):
            x = block(x, layer, context, cos, sin)
        return self.norm(x)

    def last_keys_values(self, x: Tensor, positions: Tensor, context: Context) -> KeysValues:
        """Run tokens up to the last layer's keys and values ``[B, H, t, d]``, and return these.

        The arguments are those of :meth:`forward`; the ``context`` is called for all layers before the last.
        """
        cos, sin = self.rotary(positions, torch.promote_types(x.dtype, torch.float32))
        *before, last = self._remaining(())
        for layer, block in enumerate(before):
            x = block(x, layer, context, cos, sin)
        _, keys, values = last.attention.project(last.attention_norm(x), cos, sin)
        return keys, values

    def step(self, x: Tensor, positions: Tensor, context: StepContext) -> Tensor:
        """Run one token of every sequence through all layers, without gradient.

        Args:
            x: tokens ``[B, D]``.
            positions: their positions, ``[1]`` or, if sequences differ, ``[B, 1, 1]``.
            context: stores the tokens' keys and values, and attends.

        Returns:
            Outputs ``[B, D]`` after the final norm.
        """
        cos, sin = self.rotary(positions, torch.promote_types(x.dtype, torch.float32))
        cos, sin = torch.cat([cos, cos], -1).to(x.dtype), torch.cat([-sin, sin], -1).to(x.dtype)
        cos, sin = (part.view(-1, 1, 1, self.head_dim) for part in (cos, sin))
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            x = block.step(x, layer, context, cos, sin)
        return self.norm(x)

    def sinks(self, dropped: Sequence[int] = ()) -> list[KeysValues | None]:
        """Return the sink key and value ``[1, H, 1, d]``, if any, of every layer that is not dropped."""
        return [block.attention.sink for block in self._remaining(dropped)]

    def draw_dropped_layers(self, generator: torch.Generator | None = None) -> tuple[int, ...]:
        """Draw the layers to drop, each with probability ``layer_drop``; draw again if that is all of them."""
        dropped = tuple(range(self.n_layers)) if self.layer_drop else ()
        while len(dropped) == self.n_layers:
            draws = torch.rand(self.n_layers, generator=generator)
            dropped = tuple((draws < self.layer_drop).nonzero().flatten().tolist())
        return dropped

    def _remaining(self, dropped: Sequence[int]) -> Iterator[Block]:
        for layer, block in enumerate(self.blocks):
            if layer not in dropped:
                assert isinstance(block, Block)
                yield block


def check_sizes(**sizes: int) -> None:
    """Raise a ``ValueError`` that names the first of ``sizes`` that is not positive."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")
