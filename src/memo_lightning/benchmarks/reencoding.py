"""Memo as its paper computes it: every segment re-encodes all older summaries.

It is slower by a factor that grows with trial length, and is here for comparison. ``memo benchmark`` measures it with
``'+arms.memo_reencoding=[model._target_=memo_lightning.benchmarks.reencoding.ReencodingMemo]'``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memo_lightning.models import MemoTransformer
from memo_lightning.models.sequence_context import SequenceContext
from memo_lightning.models.trials import Chunk, Trials


class ReencodingMemo(MemoTransformer):
    """Memo that reads whole sequences with :func:`forward_with_reencoding` if they are one trial each."""

    def read_trials(
        self, x: Tensor, trials: Trials, segment_length: int, dropped: Sequence[int]
    ) -> list[tuple[Chunk, Tensor]]:
        """Return the outputs of every segment; see :meth:`SegmentedModel.read_trials`."""
        if not trials.is_plain or dropped:
            return super().read_trials(x, trials, segment_length, dropped)
        y = forward_with_reencoding(self, x, segment_length)
        return [(chunk, trials.gather(y, chunk)) for chunk in trials.chunks(segment_length)]


def forward_with_reencoding(
    model: MemoTransformer, x: Tensor, segment_length: int, gradient_segments: int | None = None
) -> Tensor:
    """Return the outputs ``[B, T, D]`` of a Memo model for sequences ``x [B, T, D]`` of one trial each.

    Summaries older than ``gradient_segments`` are detached, if that is given.
    """
    summaries: list[Tensor] = []
    outputs = []
    for start in range(0, x.shape[1], segment_length):
        segment = x[:, start : start + segment_length]
        is_last = start + segment_length >= x.shape[1]
        old = len(summaries) if gradient_segments is None else gradient_segments
        first_with_gradient = max(0, len(summaries) - old)
        context = [s.detach() for s in summaries[:first_with_gradient]] + summaries[first_with_gradient:]
        queries = [] if is_last else [model.summary_queries.expand(x.shape[0], -1, -1)]
        block = torch.cat([*context, segment, *queries], dim=1)
        positions = torch.arange(block.shape[1], device=x.device)
        y = model.transformer(block, positions, SequenceContext(model.transformer.sinks()))
        n_before = len(summaries) * model.summary_length
        outputs.append(y[:, n_before : n_before + segment.shape[1]])
        summaries.append(y[:, n_before + segment.shape[1] :])
    return torch.cat(outputs, dim=1)
