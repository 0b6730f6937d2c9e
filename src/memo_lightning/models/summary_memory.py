"""The summaries of a batch of trials during training: keys and values, differentiable, computed once."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from memo_lightning.models.attention import KeysValues, causal_attention, prepend_sink
from memo_lightning.models.context_attention import attend_to_context

LayerKeysValues = list[KeysValues]
"""The keys and values of one summary, layer by layer."""


class SummaryMemory:
    """The summaries that later segments attend to, oldest first.

    Every summary is there twice: as tensors of its own, which carry its gradient, and as a stretch of a
    buffer per layer, which passes read in place. Stretches are written once, so all passes can share the
    buffer, also as what they keep for the backward pass; dropping rows or old summaries copies nothing.

    Args:
        capacity: tokens that will be appended at most.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._summaries: list[LayerKeysValues] = []
        self._buffers: LayerKeysValues = []
        self._first, self._end = 0, 0  # the stretch of the buffers that is held

    def append(self, summary: LayerKeysValues) -> None:
        """Add the newest summary."""
        if not self._buffers:
            rows, heads, _, head_dim = summary[0][0].shape
            shape = (rows, heads, self._capacity, head_dim)
            self._buffers = [(keys.new_empty(shape), values.new_empty(shape)) for keys, values in summary]
        length = summary[0][0].shape[2]
        for buffers, tensors in zip(self._buffers, summary, strict=True):
            for buffer, tensor in zip(buffers, tensors, strict=True):
                buffer[:, :, self._end : self._end + length] = tensor.detach()
        self._summaries.append(summary)
        self._end += length

    def keep_newest(self, n_summaries: int | None) -> None:
        """Drop the oldest summaries, down to ``n_summaries``; None keeps all."""
        if n_summaries is not None:
            n_dropped = max(0, len(self._summaries) - n_summaries)
            self._first += sum(summary[0][0].shape[2] for summary in self._summaries[:n_dropped])
            self._summaries = self._summaries[n_dropped:]

    def keep_rows(self, n_rows: int) -> None:
        """Keep the first ``n_rows`` rows."""
        if self._buffers and n_rows < self._buffers[0][0].shape[0]:
            self._buffers = _first_rows(self._buffers, n_rows)
            self._summaries = [_first_rows(summary, n_rows) for summary in self._summaries]

    def view(self) -> SummaryView:
        """Return the summaries held now; the view stays as it is when the memory changes."""
        stretch = slice(self._first, self._end)
        buffers = [(keys[:, :, stretch], values[:, :, stretch]) for keys, values in self._buffers]
        return SummaryView(buffers, tuple(self._summaries))


class SummaryView:
    """The summaries that one pass sees.

    Args:
        buffers: per layer, keys and values ``[B, H, n * S, d]`` without gradient; no entries where there is
            none.
        summaries: the same with gradient, summary by summary.
    """

    def __init__(self, buffers: LayerKeysValues, summaries: tuple[LayerKeysValues, ...]) -> None:
        self._buffers, self.summaries = buffers, summaries

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return what the queries read from all summaries and, causally, from the pass's own tokens."""
        if not self.summaries:
            return causal_attention(queries, keys, values)
        parts = [summary[layer] for summary in self.summaries]
        return attend_to_context(queries, keys, values, self._buffers[layer], parts)


class SummaryContext:
    """One pass of tokens that see all ``summaries`` and, causally, each other.

    Args:
        summaries: the summaries to be seen.
        sinks: the layers' sink keys and values.
        kept: the tokens of the pass whose keys and values are wanted afterwards.
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
        # A query for the sink, whose result is dropped, keeps the mask of the pass's own tokens square.
        keys, values = prepend_sink(sink, keys, values)
        return self._summaries.attend(layer, F.pad(queries, (0, 0, 1, 0)), keys, values)[:, :, 1:]


def _first_rows(tensors: LayerKeysValues, n_rows: int) -> LayerKeysValues:
    return [(keys[:n_rows], values[:n_rows]) for keys, values in tensors]
