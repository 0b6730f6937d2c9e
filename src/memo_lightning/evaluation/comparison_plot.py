"""The plot of a comparison: learning curves by frames and by time, in-context curves and scores."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from memo_lightning.evaluation.colours import memory_colours
from memo_lightning.evaluation.plots import (
    PAGE_WIDTH,
    STYLE,
    draw_estimate,
    include_zero,
    legend_below,
    new_figure,
    short_numbers,
    tidy,
)

if TYPE_CHECKING:
    from memo_lightning.evaluation.comparison import Group

_NAME_WIDTH = 32  # characters that fit in a panel


@rc_context(STYLE)
def plot_comparison(groups: Sequence[Group], path: Path) -> None:
    """Plot learning curves, in-context curves and scores of all groups, for every environment.

    Intervals are over seeds; a group with one seed has none.
    """
    environments = list(dict.fromkeys(group.environment for group in groups))
    colours = memory_colours(group.name for group in groups)
    figure = new_figure(PAGE_WIDTH, 0.6 + 5.2 * len(environments))
    panels = figure.subplots(2 * len(environments), 2, squeeze=False).reshape(len(environments), 4)
    for (by_frames, by_time, in_context, scores), environment in zip(panels, environments, strict=True):
        shown = [group for group in groups if group.environment == environment]
        for group in shown:
            colour, seconds = colours[group.name], group.learning_by_seconds
            draw_estimate(by_frames, group.learning.x, group.learning.y, colour)
            draw_estimate(by_time, seconds.x / 60, seconds.y, colour)
            draw_estimate(in_context, group.in_context.x, group.in_context.y, colour)
        by_frames.set(xlabel="frames", ylabel="return per trial", title=environment)
        by_time.set(xlabel="minutes of training", ylabel="return per trial", title="by time")
        in_context.set(xlabel="step of the trial", ylabel="reward per step", title="within a trial")
        in_context.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        for axes in (by_frames, by_time, in_context):
            axes.set_xlim(left=0)
            include_zero(axes)
            for which in ("x", "y"):
                short_numbers(axes, which)
        _draw_scores(scores, shown, colours)
        for axes in (by_frames, by_time, in_context, scores):
            tidy(axes)
    lines = [Line2D([], [], color=colour, label=_label(name, groups)) for name, colour in colours.items()]
    legend_below(figure, lines)
    if any(len(group.seeds) > 1 for group in groups):
        figure.suptitle("bands: 95 % intervals over seeds")
    figure.savefig(path)


def _label(name: str, groups: Sequence[Group]) -> str:
    """Return a group's label in the legend, with the smallest number of seeds it has in any environment."""
    n_seeds = min(len(group.seeds) for group in groups if group.name == name)
    return f"{name} ({n_seeds} seed{'s' if n_seeds > 1 else ''})"


def _draw_scores(axes: Axes, groups: Sequence[Group], colours: Mapping[str, str]) -> None:
    """Draw a mark for each group's score, the best on top, and a bar for its interval."""
    for place, group in enumerate(reversed(groups)):
        mean, low, high = (float(value) for value in (group.score.mean, group.score.low, group.score.high))
        colour = colours[group.name]
        if not math.isnan(low):
            axes.plot([low, high], [place, place], color=colour, linewidth=8, alpha=0.3, solid_capstyle="butt")
        axes.plot([mean], [place], marker="|", markersize=14, markeredgewidth=3, color=colour)
        name = textwrap.fill(group.name, _NAME_WIDTH)  # above the mark, as there is no room beside it for long names
        axes.annotate(name, (0, place), (3, 9), ("axes fraction", "data"), "offset points", fontsize=8)
    axes.set(xlabel="return per trial", title="score", ylim=(-0.6, len(groups) - 0.2), yticks=[])
    short_numbers(axes, "x")
