"""Plots of in-context learning, and of what Memo's memory attends to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from memo_lightning.data.trial_record import TrialRecord
from memo_lightning.evaluation.in_context import Estimate, by_steps, estimate_mean
from memo_lightning.evaluation.memory_views import MemoryView

_N_STRETCHES = 10  # of a trial, where no number of steps is given


def plot_in_context_curve(
    records: dict[str, TrialRecord], path: Path, title: str, bin_steps: int | None = None
) -> None:
    """Draw reward over the steps of a trial, return over its episodes, and success over its steps.

    Mean and 95 % interval; success weighted by path length is drawn dashed where it is reported.

    Args:
        records: trials to draw, by label.
        path: the image to write.
        title: what is shown, for the heading.
        bin_steps: steps that success is averaged over; by default a tenth of a trial.
    """
    figure = Figure(figsize=(14, 4), layout="constrained")
    by_step, by_episode, success = figure.subplots(1, 3)
    for index, (label, record) in enumerate(records.items()):
        colour = f"C{index}"
        n_bins = record.rewards.shape[1]
        steps_per_bin = record.lengths.mean() / n_bins
        centres = (np.arange(n_bins) + 0.5) * steps_per_bin
        _draw(by_step, centres, estimate_mean(record.rewards / steps_per_bin), colour, label)
        # An episode index that few trials reach shows the lucky ones only.
        reached = np.isfinite(record.episode_returns).mean(0) >= 0.5
        if reached.any():
            episodes = np.arange(1, reached.sum() + 1)
            _draw(by_episode, episodes, estimate_mean(record.episode_returns[:, reached]), colour, label)
        table = by_steps(record, bin_steps or -(-int(record.lengths.max()) // _N_STRETCHES))
        steps = np.array(table["steps"]) - table["steps"][0] / 2
        for name, line in (("success", "-"), ("spl", "--")):
            if name in table:
                key = "SPL" if name == "spl" and index == 0 else None
                _draw(success, steps, _estimate(table, name), colour, key, line)
    by_step.set(xlabel="step of the trial", ylabel="reward per step")
    by_episode.set(xlabel="episode of the trial", ylabel="return of the episode")
    success.set(xlabel="step of the trial", ylabel="success of episodes that end there", ylim=(-0.02, 1.02))
    for axes in (by_step, by_episode, success):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (by_step, by_episode):
        include_zero(axes)
    by_step.legend(frameon=False)
    if success.get_legend_handles_labels()[0]:
        success.legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def include_zero(axes: Axes) -> None:
    """Let the vertical axis reach to zero, from wherever the values are: returns may be negative."""
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0), max(high, 0))


def plot_summary_attention(view: MemoryView, ends: Tensor, successes: Tensor, path: Path, title: str) -> None:
    """Draw what Memo's summaries are made of and what is read from them, mean over layers, heads and tokens.

    Args:
        view: of one trial.
        ends: bool ``[T]``, the steps in which an episode ended.
        successes: bool ``[T]``, those in which it ended with success.
        path: the image to write.
        title: what is shown, for the heading.
    """
    steps = np.arange(1, len(ends) + 1)
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(1, 1.2))
    written = written_attention(view)
    above.plot(steps[: len(written)], written, color="C0", linewidth=1)
    above.axhline(1, color="0.6", linewidth=0.8, linestyle=":")
    for step in steps[ends.numpy()]:
        above.axvline(step, color="C2" if successes[step - 1] else "0.8", linewidth=0.8)
    above.set(
        xlim=(1, len(steps)), ylim=(0, None), xlabel="step of the trial (lines: ends of episodes, green with success)",
        ylabel="attention of the summary\nof its segment (1: all alike)",
    )  # fmt: skip
    read = read_attention(view)
    shown = np.where(np.tri(len(read), read.shape[1], k=-1, dtype=bool), read, np.nan)
    extent = (0.5, shown.shape[1] + 0.5, len(shown) + 0.5, 0.5)
    image = below.imshow(shown, cmap="viridis", vmin=0, aspect="auto", extent=extent)
    below.set(xlabel="summary of segment", ylabel="read in segment")
    figure.colorbar(image, ax=below, label="share of the attention of its steps")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    below.locator_params(integer=True)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def written_attention(view: MemoryView) -> NDArray[np.float64]:
    """Return ``[n * L]``, what a summary's queries pay to each step of its segment.

    It is relative to all steps of the segment: 1 everywhere if the queries looked at all of them alike.
    """
    of_steps = view.written.double().mean((0, 1))
    return (of_steps / of_steps.mean(-1, keepdim=True)).flatten().numpy()


def read_attention(view: MemoryView) -> NDArray[np.float64]:
    """Return ``[segments, n]``, the share of its attention that a step of a segment pays to each summary."""
    length = view.written.shape[-1]
    by_step = view.attention[..., :-1].double().mean((0, 1))
    return np.stack([part.mean(0).numpy() for part in by_step.split(length)])


def _estimate(table: dict[str, list], name: str) -> Estimate:
    low, high = np.array(table[f"{name}_interval"], np.float64).T
    return Estimate(np.array(table[name], np.float64), low, high)


def _draw(axes: Axes, x: NDArray, y: Estimate, colour: str, label: str | None, line: str = "-") -> None:
    alone = len(x) < 2 or np.isfinite(y.mean).sum() < 2  # a line through one point is not seen
    axes.plot(x, y.mean, line, label=label, color=colour, marker="o" if alone else None)
    axes.fill_between(x, y.low, y.high, color=colour, alpha=0.2, linewidth=0)
    if alone:
        axes.vlines(x, y.low, y.high, color=colour)
