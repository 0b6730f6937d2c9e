"""What Memo's summaries are made of, and what is read from them later: attention over one trial."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tensordict import TensorDictBase
from torch import Tensor

from memo_lightning.models import MemoTransformer
from memo_lightning.models.summary_memory import LayerKeysValues, SummaryView
from memo_lightning.policies import MemoryPolicy


@dataclass(frozen=True)
class SummaryAttention:
    """Attention in one trial, mean over layers, heads and tokens.

    Attributes:
        written: ``[T]``, what the queries of a segment's summary pay to each of its steps, times the segment's
            length: 1 everywhere if they looked at all steps alike. NaN in the open segment, which has no summary.
        read: ``[n, n]``, the share of its attention that a step of segment i (row) pays to the summary of segment j.
    """

    written: NDArray[np.float64]
    read: NDArray[np.float64]


@torch.no_grad()
def summary_attention(model: MemoTransformer, x: Tensor) -> SummaryAttention:
    """Return the attention of ``model``, in ``eval()`` mode, while it reads one trial ``x [1, T, D]``."""
    n_steps, n_summary = x.shape[1], model.summary_length
    with _recorded(model) as blocks:
        model(x)
    written, read = np.full(n_steps, np.nan), np.zeros((len(blocks), len(blocks)))
    for index, layers in enumerate(blocks):
        weights = torch.stack(layers).mean((0, 1, 2)).double().numpy()  # [tokens of the pass, all that they see]
        # The newest summary is among the tokens of the pass, before the steps; older ones are not.
        n_older, n_newest = weights.shape[1] - weights.shape[0], n_summary if index else 0
        start = index * model.segment_length
        length = min(model.segment_length, n_steps - start)
        steps = weights[n_newest : n_newest + length]
        by_summary = steps[:, : n_older + n_newest].mean(0).reshape(-1, n_summary).sum(1)
        read[index, index - len(by_summary) : index] = by_summary
        queries = weights[n_newest + length :]
        if len(queries):
            to_steps = queries[:, n_older + n_newest :][:, :length].mean(0)
            written[start : start + length] = length * to_steps / to_steps.sum()
    return SummaryAttention(written, read)


def plot_summary_attention(policy: MemoryPolicy, trial: TensorDictBase, path: Path, title: str) -> None:
    """Draw what the summaries are made of and what is read from them in a ``trial [T]`` of a Memo policy."""
    model = policy.sequence_model
    assert isinstance(model, MemoTransformer)
    with torch.no_grad():
        attention = summary_attention(model, policy.encoder(trial[None]))
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(1, 1.2))
    steps = np.arange(1, len(attention.written) + 1)
    above.plot(steps, attention.written, color="C0", linewidth=1)
    above.axhline(1, color="0.6", linewidth=0.8, linestyle=":")
    ends, succeeded = (trial.get(("next", key)).flatten().cpu().numpy() for key in ("episode_end", "success"))
    for step in steps[ends]:
        above.axvline(step, color="C2" if succeeded[step - 1] else "0.8", linewidth=0.8)
    above.set(
        xlim=(1, len(steps)), ylim=(0, None), xlabel="step of the trial (lines: ends of episodes, green with success)",
        ylabel="attention of the summary\nof its segment (1: all alike)",
    )  # fmt: skip
    shown = np.where(np.tri(len(attention.read), k=-1, dtype=bool), attention.read, np.nan)
    extent = (0.5, len(shown) + 0.5, len(shown) + 0.5, 0.5)
    image = below.imshow(shown, cmap="viridis", vmin=0, aspect="auto", extent=extent)
    below.set(xlabel="summary of segment", ylabel="read in segment")
    figure.colorbar(image, ax=below, label="share of the attention of its steps")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


@contextmanager
def _recorded(model: MemoTransformer) -> Iterator[list[list[Tensor]]]:
    """Record, per pass and layer, the attention weights ``[B, H, t, context + t]``."""
    blocks: list[list[Tensor]] = []
    run_block = model.run_block

    def record(
        block: Tensor, position: int, summaries: SummaryView, kept: slice, dropped: Sequence[int] = ()
    ) -> tuple[Tensor, LayerKeysValues]:
        watched = _Watched(summaries)
        blocks.append(watched.weights)
        return run_block(block, position, watched, kept, dropped)  # type: ignore[arg-type]

    model.run_block = record  # type: ignore[method-assign]
    try:
        yield blocks
    finally:
        del model.run_block


class _Watched:
    """Summaries that note how they and the tokens of the pass are attended to."""

    def __init__(self, view: SummaryView) -> None:
        self._view = view
        self.summaries = view.summaries
        self.weights: list[Tensor] = []

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :meth:`SummaryView.attend`."""
        context = [summary[layer][0] for summary in self.summaries]
        everything = torch.cat([*context, keys], dim=2)
        scores = (queries * queries.shape[-1] ** -0.5) @ everything.transpose(-1, -2)
        n_context = everything.shape[2] - queries.shape[2]
        hidden = torch.ones_like(scores, dtype=torch.bool).triu_(n_context + 1)
        self.weights.append(scores.masked_fill_(hidden, -torch.inf).softmax(-1))
        return self._view.attend(layer, queries, keys, values)
