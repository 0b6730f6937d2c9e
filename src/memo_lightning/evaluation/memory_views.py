"""A look inside Memo's memory: what steps attend to, what summaries are made of, and what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from memo_lightning.models import MemoTransformer
from memo_lightning.models.summary_memory import LayerKeysValues, SummaryView


@dataclass(frozen=True)
class MemoryView:
    """Attention and summaries of Memo on some sequences, with n complete segments of L steps and S tokens per summary.

    Attributes:
        attention: share of each step's attention that goes to the summary of each earlier segment and, last, to the
            steps of its own segment, ``[layers, B, T, n + 1]``, mean over heads. The shares of a step sum to 1, or to
            what the sink leaves.
        written: share of the attention of a summary's queries that goes to each step of its segment,
            ``[layers, B, n, L]``, mean over heads and queries.
        summaries: the summary tokens in the order they were written, ``[B, n, S, D]``.
    """

    attention: Tensor
    written: Tensor
    summaries: Tensor


@torch.no_grad()
def view_memory(model: MemoTransformer, x: Tensor) -> MemoryView:
    """Run Memo, in ``eval()`` mode, over sequences of one trial each, ``x [B, T, D]``, and record its memory."""
    batch, n_steps, width = x.shape
    n, length, per_summary = n_steps // model.segment_length, model.segment_length, model.summary_length
    n_layers = model.transformer.n_layers
    attention = x.new_zeros(n_layers, batch, n_steps + 1, n + 1)
    written = x.new_zeros(n_layers, batch, n, length)
    summaries = x.new_zeros(batch, n, per_summary, width)

    def record_attention(segment: int, layer: int, weights: Tensor) -> None:
        # Columns: older summaries, then the tokens of the pass, i.e. newest summary, steps, queries.
        newest = per_summary if segment else 0
        seen = weights.shape[2] - weights.shape[1] + newest
        start = segment * length
        stop = min(start + length, n_steps + 1)
        of_steps = weights[:, newest : newest + stop - start]
        by_summary = of_steps[:, :, :seen].unflatten(2, (-1, per_summary)).sum(3)
        attention[layer, :, start:stop, segment - by_summary.shape[2] : segment] = by_summary
        attention[layer, :, start:stop, -1] = of_steps[:, :, seen:].sum(2)
        if segment < n:
            written[layer, :, segment] = weights[:, newest + length :, seen : seen + length].mean(1)

    def record_outputs(segment: int, outputs: Tensor) -> None:
        if segment < n:
            summaries[:, segment] = outputs[:, -per_summary:]

    with _watched(model, record_attention, record_outputs):
        # One more step, which no other attends to, so that the last complete segment is summarised too.
        model(F.pad(x, (0, 0, 0, 1)), segment_length=length)
    return MemoryView(attention[:, :, :n_steps], written, summaries)


@contextmanager
def _watched(
    model: MemoTransformer,
    record_attention: Callable[[int, int, Tensor], None],
    record_outputs: Callable[[int, Tensor], None],
) -> Iterator[None]:
    """Report the attention of every layer, and the outputs, of each pass of the model."""
    run_block, segment = model.run_block, 0

    def run_and_record(
        block: Tensor, position: int, summaries: SummaryView, kept: slice, dropped: Sequence[int] = ()
    ) -> tuple[Tensor, LayerKeysValues]:
        nonlocal segment

        def record(layer: int, weights: Tensor) -> None:
            record_attention(segment, layer, weights)

        watched = _WatchedSummaries(summaries, record, has_sink=model.transformer.sink_kv)
        y, final = run_block(block, position, watched, kept, dropped)  # type: ignore[arg-type]
        record_outputs(segment, y)
        segment += 1
        return y, final

    model.run_block = run_and_record  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.run_block


class _WatchedSummaries:
    """Summaries that report the attention to them and to the tokens of the pass.

    Args:
        view: the summaries.
        record: called with the layer and its attention, mean over heads, ``[B, t, context + t]``, without the sink.
        has_sink: whether a sink precedes the tokens of the pass; its query is ignored.
    """

    def __init__(self, view: SummaryView, record: Callable[[int, Tensor], None], *, has_sink: bool) -> None:
        self._view, self._record, self._has_sink = view, record, has_sink
        self.layers = view.layers

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Report the attention, then do as :meth:`SummaryView.attend`."""
        everything = torch.cat([self.layers[layer][0], keys], dim=2) if self.layers else keys
        scores = (queries * queries.shape[-1] ** -0.5) @ everything.mT
        n_context = everything.shape[2] - queries.shape[2]
        hidden = torch.ones_like(scores, dtype=torch.bool).triu_(n_context + 1)
        weights = scores.masked_fill_(hidden, -torch.inf).softmax(-1).mean(1)
        if self._has_sink:
            weights = torch.cat([weights[:, 1:, :n_context], weights[:, 1:, n_context + 1 :]], dim=2)
        self._record(layer, weights)
        return self._view.attend(layer, queries, keys, values)
