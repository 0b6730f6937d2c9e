"""Memo as its paper computes it: every segment encodes all older summaries again.

Slower by a factor that grows with the length of the trial; here to compare with.
"""

import torch

from memo_lightning.models.row_context import RowContext


def forward_with_reencoding(model, x, segment_length, gradient_segments=None):
    """Return the outputs ``[B, T, D]`` of a Memo model for rows of one trial.

    Summaries older than ``gradient_segments`` are detached, where that is given.
    """
    summaries, outputs = [], []
    for start in range(0, x.shape[1], segment_length):
        segment = x[:, start : start + segment_length]
        old = len(summaries) if gradient_segments is None else gradient_segments
        first_with_gradient = max(0, len(summaries) - old)
        context = [s.detach() for s in summaries[:first_with_gradient]] + summaries[first_with_gradient:]
        queries = model.summary_queries.expand(x.shape[0], -1, -1)
        block = torch.cat([*context, segment, queries], dim=1)
        y = model.transformer(block, torch.arange(block.shape[1]), RowContext(model.transformer.sinks()))
        n_before = len(summaries) * model.summary_length
        outputs.append(y[:, n_before : n_before + segment.shape[1]])
        summaries.append(y[:, n_before + segment.shape[1] :])
    return torch.cat(outputs, dim=1)
