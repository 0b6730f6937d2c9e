"""The summaries of a batch of trials in training, as differentiable keys and values that are computed once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from memo_lightning.models.attention import KeysValues, LayerKeysValues, causal_attention, prepend_sink
from memo_lightning.models.context_attention import attend_to_context


class SummaryMemory:
    """The summaries that later segments attend to, oldest first.

    Each layer has a buffer in which the summaries lie one after another. All passes read it in place, and share it as
    their saved tensor for the backward pass. Every stretch is written once, and dropping rows or old summaries copies
    nothing. The backward pass sums the gradients of all later passes in one tensor per layer, from which every summary
    takes its stretch.

    Args:
        capacity: maximum number of tokens that will be appended.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._buffers: LayerKeysValues = []
        self._held: LayerKeysValues = []  # stretches of the buffers, with gradient
        self._end = 0

    def append(self, summary: LayerKeysValues) -> None:
        """Add the newest summary."""
        if not self._buffers:
            self._buffers = [(self._buffer(keys), self._buffer(values)) for keys, values in summary]
            self._held = [(keys[:, :, :0], values[:, :, :0]) for keys, values in self._buffers]
        layers = zip(self._buffers, self._held, summary, strict=True)
        self._held = [
            (
                _Append.apply(buffers[0], self._end, held[0], keys),
                _Append.apply(buffers[1], self._end, held[1], values),
            )
            for buffers, held, (keys, values) in layers
        ]
        self._end += summary[0][0].shape[2]

    def _buffer(self, like: Tensor) -> Tensor:
        rows, heads, _, head_dim = like.shape
        return like.new_empty(rows, heads, self._capacity, head_dim)

    def keep_newest(self, n_tokens: int) -> None:
        """Drop the oldest tokens until ``n_tokens`` are left."""
        if self._held and n_tokens < self._held[0][0].shape[2]:
            n_dropped = self._held[0][0].shape[2] - n_tokens
            self._held = [(keys[:, :, n_dropped:], values[:, :, n_dropped:]) for keys, values in self._held]

    def keep_rows(self, n_rows: int) -> None:
        """Keep only the first ``n_rows`` rows."""
        if self._held and n_rows < self._held[0][0].shape[0]:
            self._held = [(keys[:n_rows], values[:n_rows]) for keys, values in self._held]

    def view(self) -> SummaryView:
        """Return a view of the current summaries, which stays the same when the memory changes."""
        return SummaryView(self._held)


class _Append(torch.autograd.Function):
    """Write ``new`` to the buffer behind ``held``, which ends at token ``end``; return both as one, without a copy."""

    @staticmethod
    def forward(ctx: Any, buffer: Tensor, end: int, held: Tensor, new: Tensor) -> Tensor:
        ctx.lengths = [held.shape[2], new.shape[2]]
        buffer = buffer[: len(new)]
        buffer[:, :, end : end + new.shape[2]] = new
        # Not a view: autograd would complain that it has changed once the next stretch is written.
        return buffer[:, :, end - held.shape[2] : end + new.shape[2]].data

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor, Tensor]:
        held, new = gradients[0].split(ctx.lengths, dim=2)
        return None, None, held, new


class SummaryView:
    """The summaries that one pass sees.

    Args:
        layers: per layer, keys and values ``[B, H, n * S, d]``; empty if there is no summary.
    """

    def __init__(self, layers: LayerKeysValues) -> None:
        self.layers = layers

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the attention of the queries to all summaries and, causally, to the pass's own tokens."""
        if not self.layers:
            return causal_attention(queries, keys, values)
        return attend_to_context(queries, keys, values, self.layers[layer])


class SummaryContext:
    """The context of one pass, whose tokens see all ``summaries`` and, causally, each other.

    Args:
        summaries: the summaries that the tokens see.
        sinks: the layers' sink keys and values.
        kept: the tokens of the pass whose keys and values are kept for later.
    """

    def __init__(self, summaries: SummaryView, sinks: list[KeysValues | None], kept: slice = slice(0)) -> None:
        self._summaries, self._sinks, self._kept = summaries, sinks, kept
        self.kept: LayerKeysValues = []

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :class:`~memo_lightning.models.attention.Context`."""
        # Copies: a slice would keep the whole pass's keys and values alive.
        self.kept.append((keys[:, :, self._kept].clone(), values[:, :, self._kept].clone()))
        sink = self._sinks[layer]
        if sink is None:
            return self._summaries.attend(layer, queries, keys, values)
        # A dummy query for the sink, whose result is dropped, keeps the mask of the pass's own tokens square.
        keys, values = prepend_sink(sink, keys, values)
        return self._summaries.attend(layer, F.pad(queries, (0, 0, 1, 0)), keys, values)[:, :, 1:]
