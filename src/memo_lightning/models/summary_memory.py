"""The summaries of a batch of trials during training: keys and values, differentiable, computed once."""

from __future__ import annotations

import torch
from torch import Tensor

from memo_lightning.models.attention import KeysValues, causal_attention, causal_mask, prepend_sink

LayerKeysValues = list[KeysValues]
"""The keys and values of one summary, layer by layer."""


class SummaryMemory:
    """The summaries that later segments attend to, oldest first.

    Each is kept by itself, not as part of one long tensor: segments then share them, also as what activation
    checkpointing keeps of a segment's inputs, and dropping rows or old summaries copies nothing.
    """

    def __init__(self) -> None:
        self.summaries: tuple[LayerKeysValues, ...] = ()

    def append(self, summary: LayerKeysValues) -> None:
        """Add the newest summary."""
        self.summaries = (*self.summaries, summary)

    def keep_newest(self, n_summaries: int | None) -> None:
        """Drop the oldest summaries, down to ``n_summaries``; None keeps all."""
        if n_summaries is not None:
            self.summaries = self.summaries[max(0, len(self.summaries) - n_summaries) :]

    def keep_rows(self, n_rows: int) -> None:
        """Keep the first ``n_rows`` rows."""
        if self.summaries and n_rows < self.summaries[0][0][0].shape[0]:
            self.summaries = tuple(
                [(keys[:n_rows], values[:n_rows]) for keys, values in summary] for summary in self.summaries
            )


class SummaryContext:
    """One pass of tokens that see all ``summaries`` and, causally, each other.

    Args:
        summaries: the summaries to be seen.
        sinks: the layers' sink keys and values.
        kept: the tokens of the pass whose keys and values are wanted afterwards.
    """

    def __init__(
        self, summaries: tuple[LayerKeysValues, ...], sinks: list[KeysValues | None], kept: slice
    ) -> None:
        self._summaries, self._sinks, self._kept = summaries, sinks, kept
        self._mask: Tensor | None = None
        self.kept: LayerKeysValues = []

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :class:`~memo_lightning.models.attention.Context`."""
        # Copies: a slice would keep the whole pass's keys and values alive.
        self.kept.append((keys[:, :, self._kept].clone(), values[:, :, self._kept].clone()))
        keys = torch.cat([*(summary[layer][0] for summary in self._summaries), keys], dim=2)
        values = torch.cat([*(summary[layer][1] for summary in self._summaries), values], dim=2)
        keys, values = prepend_sink(self._sinks[layer], keys, values)
        if self._mask is None and keys.shape[2] > queries.shape[2]:
            self._mask = causal_mask(queries.shape[2], keys.shape[2], queries)
        return causal_attention(queries, keys, values, self._mask)
