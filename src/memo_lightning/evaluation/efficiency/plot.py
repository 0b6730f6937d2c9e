"""The picture of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from memo_lightning.evaluation.efficiency.tables import costs_of

_PANELS = (
    ("update_seconds", 1.0, "update, seconds"),
    ("update_peak_bytes", 1e-6, "update, peak MB"),
    ("flops_per_step", 1e-6, "acting, MFLOP per step with summaries"),
    ("step_seconds", 1e3, "step, ms (median)"),
    ("worst_step_seconds", 1e3, "step, ms (worst: a boundary)"),
    ("state_bytes", 1e-6, "state, MB per environment"),
)


def plot_costs(cases: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw every cost of every memory over the length of the context, on logarithmic axes.

    Args:
        cases: the ``cases`` of ``benchmark.json``.
        path: the picture to write.
    """
    costs = costs_of(cases)
    memories = list(dict.fromkeys(memory for _, memory in costs))
    lengths = sorted({length for length, _ in costs})
    figure = Figure(figsize=(13, 7), layout="constrained")
    for axes, (name, factor, title) in zip(figure.subplots(2, 3).flat, _PANELS, strict=True):
        for number, memory in enumerate(memories):
            points = [(k, costs[k, memory][name] * factor) for k in lengths if costs.get((k, memory), {}).get(name)]
            style = "-" if memory in ("memo", "full_context") else "--"
            axes.plot(
                *zip(*points, strict=True), style, marker=".", label=memory, color=f"C{number}"
            ) if points else None
        axes.set(title=title, xlabel="steps of context", xscale="log", yscale="log")
        axes.set_xticks(lengths, [f"{length / 1024:g}k" for length in lengths])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if memories:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=110)
