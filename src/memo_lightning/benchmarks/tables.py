"""The figures of a benchmark as tables: readable in a terminal, and valid Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Heading, figure, factor, decimals
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
    """Return the costs of all memories, by length of the context.

    A figure that could not be measured is missing.

    Args:
        cases: the ``cases`` of ``benchmark.json``.
    """
    rows = [["steps", "memory", *(heading for heading, *_ in _COLUMNS)]]
    for (length, memory), figures in costs_of(cases).items():
        numbers = (_number(figures.get(name), factor, digits) for _, name, factor, digits in _COLUMNS)
        rows.append([f"{length:,}", memory, *numbers])
    return _markdown(rows)


def costs_of(cases: Mapping[str, Mapping[str, Any]]) -> dict[tuple[int, str], dict[str, Any]]:
    """Return the figures of updates and acting together, by length of the context and memory, shortest first."""
    costs: dict[tuple[int, str], dict[str, Any]] = {}
    for key, case in cases.items():
        if key.startswith(("update/", "acting/")):
            costs.setdefault((case["context_length"], case["memory"]), {}).update(case)
    return dict(sorted(costs.items(), key=lambda item: item[0][0]))


def ratio_table(ratios: Sequence[Mapping[str, Any]]) -> str:
    """Return the ratios, with the figure that is aimed at and whether it is reached."""
    rows = [["ratio", "measured", "by CPU time", "aim", ""]]
    for ratio in ratios:
        cpu = "" if ratio["by_cpu_time"] is None else f"{ratio['by_cpu_time']:.2f}"
        reached = "reached" if ratio["reached"] else "missed"
        rows.append([ratio["name"], f"{ratio['value']:.2f}", cpu, ratio["aim"], reached])
    return _markdown(rows)


def _number(value: float | None, factor: float, digits: int) -> str:
    return "" if value is None else f"{value * factor:,.{digits}f}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first being the heading, as a Markdown table with aligned columns; figures to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = [column > 0 and rows[0][column] not in ("memory", "") for column in range(len(widths))]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        lines.append(f"| {' | '.join(cells)} |")
    rule = ("-" * (width - 1) + (":" if to_right else "-") for width, to_right in zip(widths, right, strict=True))
    return "\n".join([lines[0], f"| {' | '.join(rule)} |", *lines[1:]])
