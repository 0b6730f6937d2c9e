"""Attention over whole sequences in one pass, limited to the steps that each token may see."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from memo_lightning.models.attention import KeysValues, causal_attention, prepend_sink
from memo_lightning.models.packed_attention import PackedTrials

_QUERY_CHUNK = 512  # queries per explicit mask; only the mask needs quadratic memory


class SequenceContext:
    """A causal context for whole sequences, in which each token sees the tokens from its own ``first_seen`` on.

    Args:
        sinks: the layers' sink keys and values.
        first_seen: int64 ``[B, T]`` or ``[1, T]``, the first step that each token sees, non-decreasing along T;
            None if all earlier tokens are seen.
        window: number of newest tokens, the current one included, to which ``first_seen`` is limited; None for all.
    """

    def __init__(
        self, sinks: list[KeysValues | None], first_seen: Tensor | None = None, window: int | None = None
    ) -> None:
        self._sinks, self._first_seen, self._window = sinks, first_seen, window
        self._chunk_starts: list[int] | None = None
        self._packed: PackedTrials | None = None

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :class:`~memo_lightning.models.attention.Context`."""
        sink = self._sinks[layer]
        if self._first_seen is not None:
            if sink is None and PackedTrials.serve(queries):
                if self._packed is None:
                    self._packed = PackedTrials(self._first_seen.expand(len(queries), -1), self._window)
                return self._packed.attend(queries, keys, values)
            return self._attend_in_chunks(self._first_seen, sink, queries, keys, values)
        keys, values = prepend_sink(sink, keys, values)
        if sink is None:
            return causal_attention(queries, keys, values)
        # A dummy query for the sink, whose result is dropped, makes the mask square, i.e. the plain causal one.
        return causal_attention(F.pad(queries, (0, 0, 1, 0)), keys, values)[:, :, 1:]

    def _attend_in_chunks(
        self, first_seen: Tensor, sink: KeysValues | None, queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Return the attention outputs, computed for chunks of queries that share a mask."""
        if self._chunk_starts is None:
            self._chunk_starts = first_seen[:, ::_QUERY_CHUNK].amin(dim=0).tolist()
        outputs = []
        for number, first_key in enumerate(self._chunk_starts):
            start = number * _QUERY_CHUNK
            end = min(start + _QUERY_CHUNK, queries.shape[2])
            stretch = prepend_sink(sink, keys[:, :, first_key:end], values[:, :, first_key:end])
            steps = torch.arange(first_key, end, device=queries.device)  # of the keys
            is_seen = steps >= first_seen[:, start:end, None]  # (B or 1, t, k)
            is_seen = is_seen & (steps <= steps[start - first_key :, None])
            if sink is not None:
                is_seen = F.pad(is_seen, (1, 0), value=True)
            outputs.append(causal_attention(queries[:, :, start:end], *stretch, is_seen.unsqueeze(1)))
        return torch.cat(outputs, dim=2)
