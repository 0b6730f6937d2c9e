"""Benchmark results as tables, in Markdown that is readable in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Heading, metric, factor, decimals
_COLUMNS = (
    ("update tokens/s", "tokens_per_second", 1.0, 0),
    ("update s", "update_seconds", 1.0, 2),
    ("CPU s", "update_cpu_seconds", 1.0, 2),
    ("GFLOP/s", "update_flops_per_second", 1e-9, 0),
    ("update MB", "update_peak_bytes", 1e-6, 0),
    ("step ms", "step_seconds", 1e3, 2),
    ("worst ms", "worst_step_seconds", 1e3, 2),
    ("state MB", "state_bytes", 1e-6, 2),
    ("acting MB", "acting_peak_bytes", 1e-6, 0),
    ("MFLOP/step", "flops_per_step", 1e-6, 2),
)


def cost_table(cases: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of the costs of all memories, by context length.

    Cells are empty where nothing was measured.

    Args:
        cases: the ``cases`` of ``benchmark.json``.
    """
    lines = [["steps", "memory", *(heading for heading, *_ in _COLUMNS)]]
    for (length, memory), metrics in costs_of(cases).items():
        numbers = (_number(metrics.get(name), factor, digits) for _, name, factor, digits in _COLUMNS)
        lines.append([f"{length:,}", memory, *numbers])
    return markdown(lines)


def costs_of(cases: Mapping[str, Mapping[str, Any]]) -> dict[tuple[int, str], dict[str, Any]]:
    """Merge the metrics of updates and acting, by context length and memory, shortest first."""
    costs: dict[tuple[int, str], dict[str, Any]] = {}
    for key, case in cases.items():
        if key.startswith(("update/", "acting/")):
            costs.setdefault((case["context_length"], case["memory"]), {}).update(case)
    return dict(sorted(costs.items(), key=lambda item: item[0][0]))


def ratio_table(ratios: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of the ratios, by wall time, bytes or counts, and by CPU time where there is one."""
    lines = [["ratio", "measured", "by CPU time"]]
    for ratio in ratios:
        cpu = "" if ratio["by_cpu_time"] is None else f"{ratio['by_cpu_time']:.2f}"
        lines.append([ratio["name"], f"{ratio['value']:.2f}", cpu])
    return markdown(lines)


def _number(value: float | None, factor: float, digits: int) -> str:
    return "" if value is None else f"{value * factor:,.{digits}f}"


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Format a table, heading first, as Markdown with aligned columns; numbers are right-aligned."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    right = [column > 0 and table[0][column] not in ("memory", "") for column in range(len(widths))]
    lines = []
    for line in table:
        cells = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )
        lines.append(f"| {' | '.join(cells)} |")
    rule = ("-" * (width - 1) + (":" if to_right else "-") for width, to_right in zip(widths, right, strict=True))
    return "\n".join([lines[0], f"| {' | '.join(rule)} |", *lines[1:]])
