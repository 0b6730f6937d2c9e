"""The plot of a benchmark's costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from memo_lightning.benchmarks.tables import costs_of
from memo_lightning.evaluation.colours import memory_colours
from memo_lightning.evaluation.plots import PAGE_WIDTH, STYLE, new_figure, tidy

_PANELS = (
    ("update_seconds", 1.0, "update, seconds"),
    ("update_peak_bytes", 1e-6, "update, peak MB"),
    ("flops_per_step", 1e-6, "acting, MFLOP per step"),
    ("step_seconds", 1e3, "step, median ms"),
    ("worst_step_seconds", 1e3, "step, worst ms (a boundary)"),
    ("state_bytes", 1e-6, "state, MB per environment"),
)
_COLUMNS = 3

Costs = Mapping[tuple[int, str], Mapping[str, Any]]


@rc_context(STYLE)
def plot_costs(cases: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Plot every measured cost of every memory: as lines over context length, or as bars if there is only one length.

    Lines have logarithmic axes. A missing mark means that a memory has no such cost, such as a state, or that it could
    not be measured.

    Args:
        cases: the ``cases`` of ``benchmark.json``.
        path: the image to write.
    """
    costs = costs_of(cases)
    panels = [panel for panel in _PANELS if any(metrics.get(panel[0]) for metrics in costs.values())]
    if not panels:  # every memory has failed
        return
    lengths = sorted({length for length, _ in costs})
    draw = _lines if len(lengths) > 1 else _bars
    draw(costs, lengths, panels).savefig(path)


def _lines(costs: Costs, lengths: Sequence[int], panels: Sequence[tuple[str, float, str]]) -> Figure:
    colours = memory_colours(memory for _, memory in costs)
    figure, all_axes = _panels(len(panels), height=2.4)
    for axes, (name, factor, title) in zip(all_axes, panels, strict=True):
        for memory, colour in colours.items():
            points = [(k, costs[k, memory][name] * factor) for k in lengths if costs.get((k, memory), {}).get(name)]
            if points:
                axes.plot(*zip(*points, strict=True), _line(memory), marker=".", color=colour, linewidth=1.2)
        axes.set(title=title, xlabel="steps of context", xscale="log", yscale="log")
        axes.set_xticks(lengths, [_short(length) for length in lengths])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        tidy(axes)
    handles = [
        Line2D([], [], marker=".", linestyle=_line(memory), color=colour, label=memory)
        for memory, colour in colours.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), frameon=False)
    return figure


def _bars(costs: Costs, lengths: Sequence[int], panels: Sequence[tuple[str, float, str]]) -> Figure:
    (length,) = lengths
    colours = memory_colours(memory for _, memory in costs)
    figure, all_axes = _panels(len(panels), height=0.8 + 0.22 * len(colours))
    for place, (axes, (name, factor, title)) in enumerate(zip(all_axes, panels, strict=True)):
        values = [(costs[length, memory].get(name) or 0.0) * factor for memory in colours]
        bars = axes.barh([*colours], values, color=[*colours.values()])
        axes.bar_label(bars, [_label(value) for value in values], padding=2, fontsize=7)
        axes.set(title=title)
        axes.margins(x=0.25)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        if place % _COLUMNS:
            axes.set_yticklabels([])
    figure.suptitle(f"{length:,} steps of context")
    return figure


def _panels(n_panels: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``n_panels`` panels, each ``height`` inches high."""
    n_lines, n_columns = -(-n_panels // _COLUMNS), min(n_panels, _COLUMNS)
    figure = new_figure(PAGE_WIDTH * n_columns / _COLUMNS + (n_columns < _COLUMNS), 0.7 + height * n_lines)
    return figure, [figure.add_subplot(n_lines, n_columns, place + 1) for place in range(n_panels)]


def _line(memory: str) -> Literal["-", "--"]:
    """Return the style of a memory's line: most are dashed, so that lines of equal cost stay visible."""
    return "-" if memory in ("memo", "full_context") else "--"


def _label(value: float) -> str:
    return "" if not value else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _short(length: int) -> str:
    return f"{length / 1024:g}k" if length >= 1024 else str(length)
