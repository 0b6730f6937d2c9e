"""The plots of a claim: learning curves, return over a trial, and scores against memory and length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, NullFormatter, NullLocator

from memo_lightning.evaluation.colours import memory_colours
from memo_lightning.evaluation.in_context import Estimate
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
from memo_lightning.evaluation.statistics import estimate_over_seeds
from memo_lightning.reproduction.claim import Claim
from memo_lightning.reproduction.judge import Kept, evaluated, scores
from memo_lightning.reproduction.results import Results
from memo_lightning.reproduction.runs import Cell

_POINTS = 60
_COLUMNS = 3


def plot_claim(claim: Claim, cells: Sequence[Cell], results: Results, folder: Path) -> list[Path]:
    """Draw the plots that a claim names as ``CLAIM-PLOT.png``; those without data are left out.

    Args:
        claim: the claim.
        cells: its runs, all of which must be in the results.
        results: the results folder.
        folder: where the images are written; created if needed.

    Returns:
        The paths of the images.
    """
    written = []
    for name in claim.plots:
        panels = panels_of(name, cells, results)
        if not panels:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        written.append(folder / f"{claim.name}-{name}.png")
        write_panels(panels, [cell.arm for cell in cells], written[-1])
    return written


Panel = tuple[str, Callable[[Axes, Mapping[str, str]], None]]  # title, and a function that draws it in arms' colours
Panels = list[Panel]


def panels_of(plot: str, cells: Sequence[Cell], results: Results) -> Panels:
    """Return the panels of a plot, by its name in a claim; none if there are no data.

    Args:
        plot: name of the plot.
        cells: the runs to draw, all of which must be in the results.
        results: the results folder.
    """
    kept = {run.name: found for cell in cells for run in cell.runs if (found := results.run(run))}
    return _PANELS[plot](cells, kept)


@rc_context(STYLE)
def write_panels(panels: Panels, arms: Sequence[str], path: Path) -> None:
    """Write an image of panels, with the arms' colours as legend."""
    colours = memory_colours(arms)
    n_columns = min(len(panels), _COLUMNS)
    n_rows = -(-len(panels) // n_columns)
    width, height = {1: (5.0, 3.2), 2: (PAGE_WIDTH, 3.2)}.get(n_columns, (PAGE_WIDTH, 2.5))
    figure = new_figure(width, 0.5 + height * n_rows)
    all_axes = figure.subplots(n_rows, n_columns, squeeze=False).flatten()
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, draw) in zip(all_axes, panels, strict=False):
        draw(axes, colours)
        axes.set_title(title)
        tidy(axes)
    lines = [Line2D([], [], color=colour, label=arm) for arm, colour in colours.items()]
    legend_below(figure, lines)
    figure.suptitle("bands and bars: 95 % intervals over seeds")
    figure.savefig(path)


def _by_task(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    tasks: dict[str, list[Cell]] = {}
    for cell in cells:
        tasks.setdefault(cell.task, []).append(cell)
    return tasks


def _learning_curves(cells: Sequence[Cell], kept: Mapping[str, Kept]) -> Panels:
    """Plot return per trial over the frames of training, one panel per task."""

    def panel(task: str, arms: Sequence[Cell]) -> Panel:
        def draw(axes: Axes, colours: Mapping[str, str]) -> None:
            for cell in arms:
                curves = [np.array(kept[run.name]["training"]["history"], np.float64).T for run in cell.runs]
                frames = np.linspace(max(c[0, 0] for c in curves), min(c[0, -1] for c in curves), _POINTS)
                values = np.array([np.interp(frames, *curve) for curve in curves])
                draw_estimate(axes, frames, estimate_over_seeds(values), colours[cell.arm])
            axes.set(xlabel="frames", ylabel="return per trial")
            include_zero(axes)
            short_numbers(axes, "x")

        return task, draw

    drawn = {task: [c for c in arms if all(kept[run.name]["training"]["history"] for run in c.runs)]
             for task, arms in _by_task(cells).items()}  # fmt: skip
    return [panel(task, arms) for task, arms in drawn.items() if arms]


def _return_by_step(cells: Sequence[Cell], kept: Mapping[str, Kept]) -> Panels:
    """Plot reward per step over the steps of a trial, one panel per task and evaluation."""

    def panel(task: str, name: str, arms: Sequence[Cell]) -> Panel:
        def draw(axes: Axes, colours: Mapping[str, str]) -> None:
            for cell in arms:
                curves = [evaluated(run, cell, name, kept)["in_context_curve"] for run in cell.runs]
                ends = np.array([curve["steps"] for curve in curves])  # trials of some seeds may be longer
                widths = np.diff(ends, prepend=0.0)
                values = np.array([curve["reward"] for curve in curves]) / widths
                middles = (ends - widths / 2).mean(0)
                draw_estimate(axes, middles, estimate_over_seeds(values), colours[cell.arm])
            axes.set(xlabel="step of the trial", ylabel="reward per step")
            axes.set_xlim(left=0)
            include_zero(axes)
            short_numbers(axes, "x")

        return f"{task}, {name}", draw

    return [panel(task, name, arms) for task, name, arms in _places(cells)]


def _places(cells: Sequence[Cell]) -> list[tuple[str, str, list[Cell]]]:
    """Return every evaluation of every task, with the arms that have it."""
    return [
        (task, name, [cell for cell in arms if name in cell.evaluations])
        for task, arms in _by_task(cells).items()
        for name in dict.fromkeys(name for cell in arms for name in cell.evaluations)
    ]


def _score_against_memory(cells: Sequence[Cell], kept: Mapping[str, Kept]) -> Panels:
    """Plot reward per step against the bytes of the memory, one panel per task and trial length with several arms."""

    def panel(task: str, length: int, points: Sequence[tuple[str, float, Estimate]]) -> Panel:
        def draw(axes: Axes, colours: Mapping[str, str]) -> None:
            for arm in dict.fromkeys(arm for arm, *_ in points):
                own = sorted((size, estimate) for name, size, estimate in points if name == arm and size > 0)
                _join(axes, own, colours[arm])
            axes.set(xlabel="peak memory in a trial (bytes)", ylabel="reward per step")
            _logarithmic(axes)
            include_zero(axes)

        return f"{task}, trials of {length:,}", draw

    points: dict[tuple[str, int], list[tuple[str, float, Estimate]]] = {}
    for cell in cells:
        for name in cell.evaluations:
            length = evaluated(cell.runs[0], cell, name, kept)["trial_length"]
            size = float(np.mean(scores(cell, name, kept, "memory_bytes")))
            estimate = estimate_over_seeds(scores(cell, name, kept, "return_per_step"))
            points.setdefault((cell.task, length), []).append((cell.arm, size, estimate))
    tasks = list(_by_task(cells))
    places = sorted(points, key=lambda place: (tasks.index(place[0]), place[1]))
    return [panel(*place, points[place]) for place in places if len({arm for arm, *_ in points[place]}) > 1]


def _score_against_length(cells: Sequence[Cell], kept: Mapping[str, Kept]) -> Panels:
    """Plot reward per step against the length of the trial, one panel per task.

    Lines are dashed with bounded memory, and dotted if a setting of the memory differs from training.
    """

    def panel(task: str, arms: Sequence[Cell]) -> Panel:
        def draw(axes: Axes, colours: Mapping[str, str]) -> None:
            lengths: set[float] = set()
            for cell in arms:
                own: dict[tuple[str, object], list[tuple[float, Estimate]]] = {}
                for name, overrides in cell.evaluations.items():
                    found = evaluated(cell.runs[0], cell, name, kept)
                    changed = tuple(filter(_of_memory, overrides))
                    line = ":" if changed else "-" if found["memory_budget"] is None else "--"
                    estimate = estimate_over_seeds(scores(cell, name, kept, "return_per_step"))
                    point = float(found["trial_length"]), estimate
                    own.setdefault((line, changed or found["memory_budget"]), []).append(point)
                    lengths.add(point[0])
                for (line, _), points in own.items():
                    points.sort(key=lambda point: point[0])
                    _join(axes, points, colours[cell.arm], line)
            axes.set(xlabel="steps per trial", ylabel="reward per step", xscale="log")
            axes.xaxis.set_major_locator(FixedLocator(sorted(lengths)))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_minor_locator(NullLocator())
            include_zero(axes)

        dotted = "; dotted: its settings changed" if any(map(_of_memory, _overrides(arms))) else ""
        return f"{task}\ndashed: bounded memory{dotted}", draw

    return [panel(task, arms) for task, arms in _by_task(cells).items() if any(cell.evaluations for cell in arms)]


def _overrides(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield the overrides of all evaluations."""
    for cell in cells:
        for overrides in cell.evaluations.values():
            yield from overrides


def _of_memory(override: str) -> bool:
    """Return whether an override of ``memo evaluate`` changes a setting of the memory."""
    return override.startswith("model.")


def _logarithmic(axes: Axes) -> None:
    """Make the horizontal axis logarithmic, with few and short labels."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 30 * low else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _join(axes: Axes, points: Sequence[tuple[float, Estimate]], colour: str, line: str = "-") -> None:
    """Draw points with interval bars, joined by a line."""
    if not points:
        return
    x, middle = [point[0] for point in points], [float(point[1].mean) for point in points]
    axes.plot(x, middle, line, marker=".", color=colour)
    axes.vlines(x, [float(p[1].low) for p in points], [float(p[1].high) for p in points], color=colour)


_PANELS: dict[str, Callable[[Sequence[Cell], Mapping[str, Kept]], Panels]] = {
    "learning_curves": _learning_curves,
    "return_by_step": _return_by_step,
    "score_against_memory": _score_against_memory,
    "score_against_length": _score_against_length,
}
