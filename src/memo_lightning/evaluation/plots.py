"""Plots of in-context learning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from memo_lightning.evaluation.in_context import TrialRecord, estimate_mean


def plot_in_context_curve(records: dict[str, TrialRecord], path: Path, title: str) -> None:
    """Draw reward over the steps of a trial, and return over its episodes; mean and 95 % interval.

    Args:
        records: trials to draw, by label.
        path: the picture to write.
        title: what is shown, for the heading.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    by_step, by_episode = figure.subplots(1, 2)
    for index, (label, record) in enumerate(records.items()):
        n_bins = record.rewards.shape[1]
        steps_per_bin = record.lengths.mean() / n_bins
        centres = (np.arange(n_bins) + 0.5) * steps_per_bin
        _draw(by_step, centres, record.rewards / steps_per_bin, label, f"C{index}")
        # An episode index that few trials reach shows the lucky ones only.
        reached = np.isfinite(record.episode_returns).mean(0) >= 0.5
        if reached.any():
            episodes = np.arange(1, reached.sum() + 1)
            _draw(by_episode, episodes, record.episode_returns[:, reached], label, f"C{index}")
    by_step.set(xlabel="step of the trial", ylabel="reward per step", ylim=(0, None))
    by_episode.set(xlabel="episode of the trial", ylabel="return of the episode", ylim=(0, None))
    for axes in (by_step, by_episode):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    by_step.legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _draw(axes: Axes, x: NDArray, values: NDArray[np.float64], label: str, colour: str) -> None:
    estimate = estimate_mean(values)
    axes.plot(x, estimate.mean, label=label, color=colour)
    axes.fill_between(x, estimate.low, estimate.high, color=colour, alpha=0.2, linewidth=0)
