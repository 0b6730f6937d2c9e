"""Plots of in-context learning and of the attention in Memo's memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from memo_lightning.data.trial_record import TrialRecord
from memo_lightning.evaluation.colours import REFERENCE
from memo_lightning.evaluation.in_context import (
    Estimate,
    bin_steps_that_fit,
    by_steps,
    estimate_mean,
    reward_per_step,
)
from memo_lightning.evaluation.memory_views import MemoryView

PAGE_WIDTH = 8.0  # inches; a page shows it without scaling text of this size down until it is illegible
STYLE: Any = {"font.size": 9, "axes.titlesize": 9, "figure.titlesize": 9, "legend.fontsize": 8, "savefig.dpi": 120}

_MEASURES: dict[str, Literal["-", "--"]] = {"success": "-", "spl": "--"}
_NAMES = {"success": "success", "spl": "SPL (success by path length)"}


@rc_context(STYLE)
def plot_in_context_curve(
    records: Mapping[str, TrialRecord], path: Path, title: str, colour: str, bin_steps: int | None = None
) -> None:
    """Plot reward over the steps of a trial and, if it has several episodes, their return and success.

    The plots show means with 95 % intervals over trials. The last record is drawn in ``colour``; those it is compared
    with are grey.

    Args:
        records: trials to plot, by label.
        path: the image file to write.
        title: heading of the plot.
        colour: colour of the memory.
        bin_steps: steps over which success is averaged; None for bins that fit the episodes.
    """
    bin_steps = bin_steps or bin_steps_that_fit([*records.values()])
    tables = {label: by_steps(record, bin_steps) for label, record in records.items()}
    colours = dict.fromkeys(records, REFERENCE) | {[*records][-1]: colour}
    panels: list[Callable[[Axes], None]] = [lambda axes: _draw_reward(axes, records, colours)]
    if any(_common_episodes(record).sum() > 1 for record in records.values()):
        panels.append(lambda axes: _draw_returns(axes, records, colours))
    if any(np.isfinite(_numbers(table.get("success", []))).sum() > 1 for table in tables.values()):
        panels.append(lambda axes: _draw_success(axes, tables, colours))
    figure = new_figure(2.6 * len(panels) + 2.0 * (len(panels) == 1), 2.9)
    for axes, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes)
        tidy(axes)
    lines = [Line2D([], [], color=colours[label], label=label) for label in records] if len(records) > 1 else []
    if any("spl" in table for table in tables.values()):
        lines += [Line2D([], [], color="0.3", linestyle=_MEASURES[key], label=name) for key, name in _NAMES.items()]
    if lines:
        legend_below(figure, lines)
    has_bands = any(len(record.returns) > 1 for record in records.values())
    figure.suptitle(f"{title}\nbands: 95 % intervals over trials" if has_bands else title)
    figure.savefig(path)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, at most :data:`PAGE_WIDTH` wide."""
    return Figure(figsize=(min(width, PAGE_WIDTH), height), layout="constrained")


def legend_below(figure: Figure, lines: Sequence[Line2D]) -> None:
    """Put a legend of ``lines`` below all axes, in as many columns as fit side by side."""
    for n_columns in range(len(lines), 0, -1):
        legend = figure.legend(handles=lines, loc="outside lower center", ncols=n_columns, frameon=False)
        if n_columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def tidy(axes: Axes) -> None:
    """Draw a light grid, and axes on two sides only."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def include_zero(axes: Axes) -> None:
    """Extend the vertical axis to zero from either side: returns may be negative, or all zero."""
    low, high = axes.get_ylim()
    low, high = min(low, 0.0), max(high, 0.0)
    axes.set_ylim((low, high) if high > low else (0.0, 1.0))


def short_numbers(axes: Axes, which: str) -> None:
    """Write 1.5M for 1,500,000 on the axis ``x`` or ``y``, if it reaches numbers of 10,000 or more."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    limits = axes.get_xlim() if which == "x" else axes.get_ylim()
    if max(map(abs, limits)) >= 10_000:
        axis.set_major_formatter(EngFormatter(sep=""))


def draw_estimate(axes: Axes, x: NDArray, y: Estimate, colour: str, line: str = "-") -> None:
    """Draw a line through the estimates and a band for their intervals; a single estimate is drawn as a point."""
    shown = np.isfinite(y.mean)
    x, mean, low, high = x[shown], y.mean[shown], y.low[shown], y.high[shown]
    alone = len(x) < 2  # a line through one point is invisible
    axes.plot(x, mean, line, color=colour, marker="o" if alone else None)
    if alone:
        axes.vlines(x, low, high, color=colour)
    else:
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _draw_reward(axes: Axes, records: Mapping[str, TrialRecord], colours: Mapping[str, str]) -> None:
    for label, record in records.items():
        draw_estimate(axes, *reward_per_step(record), colours[label])
    axes.set(xlabel="step of the trial", ylabel="reward per step")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    include_zero(axes)
    short_numbers(axes, "y")


def _draw_returns(axes: Axes, records: Mapping[str, TrialRecord], colours: Mapping[str, str]) -> None:
    for label, record in records.items():
        common = _common_episodes(record)
        draw_estimate(
            axes, np.arange(1, common.sum() + 1), estimate_mean(record.episode_returns[:, common]), colours[label]
        )
    axes.set(xlabel="episode of the trial", ylabel="return of the episode")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    include_zero(axes)
    short_numbers(axes, "y")


def _common_episodes(record: TrialRecord) -> NDArray[np.bool_]:
    """Return bool ``[n_episodes]``, the episodes that half of the trials reach: later ones show only lucky trials."""
    return np.isfinite(record.episode_returns).mean(0) >= 0.5


def _draw_success(axes: Axes, tables: Mapping[str, Mapping[str, list]], colours: Mapping[str, str]) -> None:
    for label, table in tables.items():
        ends = np.array(table["steps"])
        middles = (ends + np.concatenate([[0.0], ends[:-1]])) / 2
        for name in _MEASURES.keys() & table.keys():
            draw_estimate(axes, middles, _estimate(table, name), colours[label], _MEASURES[name])
    has_spl = any("spl" in table for table in tables.values())
    axes.set(
        xlabel="step of the trial",
        ylabel=f"{'success and SPL' if has_spl else 'success'} of episodes\nthat end there",
        ylim=(-0.02, 1.02),
    )
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


@rc_context(STYLE)
def plot_summary_attention(
    view: MemoryView, ends: Tensor, successes: Tensor, path: Path, title: str, colour: str
) -> None:
    """Plot what Memo's summaries are made of and how much they are read, averaged over layers, heads and tokens.

    Args:
        view: the memory in one trial.
        ends: bool ``[T]``, true where an episode ended.
        successes: bool ``[T]``, true where it ended with success.
        path: the image file to write.
        title: heading of the plot.
        colour: colour of the memory.
    """
    steps = np.arange(1, len(ends) + 1)
    figure = new_figure(PAGE_WIDTH, 5.8)
    above, below = figure.subplots(2, 1, height_ratios=(1, 1.2))
    written = written_attention(view)
    above.plot(steps[: len(written)], written, color=colour, linewidth=1, label="attention of the summary")
    above.axhline(1, color="0.4", linewidth=0.9, linestyle=":", label="uniform attention")
    marks = {"episode ends with success": ("#9bd49b", ends & successes), "without": ("0.8", ends & ~successes)}
    for label, (mark, which) in marks.items():
        at = steps[which.numpy()]
        above.vlines(at, 0, 1, transform=above.get_xaxis_transform(), color=mark, linewidth=0.8, zorder=0)
        if len(at):
            above.plot([], [], color=mark, linewidth=0.8, label=label)
    above.set(
        xlim=(1, len(steps)), ylim=(0, None), xlabel="step of the trial",
        ylabel="attention to the step, relative\nto the mean of its segment",
    )  # fmt: skip
    above.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.0)
    read = read_attention(view)
    shown = np.where(np.tri(len(read), read.shape[1], k=-1, dtype=bool), read, np.nan)
    shown = shown[1:, : len(read) - 1]  # the first segment reads no summary, and no segment reads the last one's
    extent = (0.5, shown.shape[1] + 0.5, len(shown) + 1.5, 1.5)
    image = below.imshow(shown, cmap="viridis", vmin=0, aspect="auto", extent=extent)
    below.set(xlabel="summary of segment", ylabel="read in segment")
    figure.colorbar(image, ax=below, label="share of the attention of its steps")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    for axis in (below.xaxis, below.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title)
    figure.savefig(path)


def written_attention(view: MemoryView) -> NDArray[np.float64]:
    """Return ``[n * L]``, the attention that a summary's queries pay to each step of its segment.

    It is relative to the mean of the segment: 1 everywhere if the queries attend to all steps equally.
    """
    of_steps = view.written.double().mean((0, 1))
    return (of_steps / of_steps.mean(-1, keepdim=True)).flatten().numpy()


def read_attention(view: MemoryView) -> NDArray[np.float64]:
    """Return ``[segments, n]``, the mean share of attention that the steps of a segment pay to each summary."""
    length = view.written.shape[-1]
    by_step = view.attention[..., :-1].double().mean((0, 1))
    return np.stack([part.mean(0).numpy() for part in by_step.split(length)])


def _estimate(table: Mapping[str, list], name: str) -> Estimate:
    low, high = _numbers(table[f"{name}_interval"]).reshape(-1, 2).T
    return Estimate(_numbers(table[name]), low, high)


def _numbers(values: list[Any]) -> NDArray[np.float64]:
    """Return an array with NaN for None."""
    return np.array(values, np.float64)
