"""The picture of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from memo_lightning.benchmarks.tables import costs_of

_PANELS = (
    ("update_seconds", 1.0, "update, seconds"),
    ("update_peak_bytes", 1e-6, "update, peak MB"),
    ("flops_per_step", 1e-6, "acting, MFLOP per step with summaries"),
    ("step_seconds", 1e3, "step, ms (median)"),
    ("worst_step_seconds", 1e3, "step, ms (worst: a boundary)"),
    ("state_bytes", 1e-6, "state, MB per environment"),
)
_COLOURS = [colormaps["tab20"](place) for place in (*range(0, 20, 2), *range(1, 20, 2))]  # the strong ones first


def plot_costs(cases: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw every cost that was measured, for every memory, over the length of the context, on logarithmic axes.

    Args:
        cases: the ``cases`` of ``benchmark.json``.
        path: the picture to write.
    """
    costs = costs_of(cases)
    memories = list(dict.fromkeys(memory for _, memory in costs))
    lengths = sorted({length for length, _ in costs})
    panels = [panel for panel in _PANELS if any(figures.get(panel[0]) for figures in costs.values())] or _PANELS[:1]
    n_rows, n_columns = -(-len(panels) // 3), min(len(panels), 3)
    figure = Figure(figsize=(4.4 * n_columns, 1.2 + 3 * n_rows), layout="constrained")
    lines = {}
    for place, (name, factor, title) in enumerate(panels, start=1):
        axes = figure.add_subplot(n_rows, n_columns, place)
        for memory, colour in zip(memories, cycle(_COLOURS), strict=False):
            points = [(k, costs[k, memory][name] * factor) for k in lengths if costs.get((k, memory), {}).get(name)]
            if points:
                style, order = ("-", 3) if memory in ("memo", "full_context") else ("--", 2)
                (lines[memory],) = axes.plot(*zip(*points, strict=True), style, marker=".", color=colour, zorder=order)
        axes.set(title=title, xlabel="steps of context", xscale="log", yscale="log")
        axes.set_xticks(lengths, [f"{length / 1024:g}k" for length in lengths])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=2 * n_columns, frameon=False)
    figure.savefig(path, dpi=110)
