"""Makes what the pages show of `results/`: run `python docs/from_results.py` after a file in there has changed."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from memo_lightning.benchmarks.plot import plot_costs
from memo_lightning.benchmarks.tables import markdown
from memo_lightning.evaluation.comparison import Curve
from memo_lightning.evaluation.comparison_plot import plot_comparison
from memo_lightning.evaluation.in_context import Estimate

DOCS = Path(__file__).resolve().parent
RESULTS = DOCS.parent / "results"
COMPARISONS = ("comparison", "partial_updates")  # each a file in results/, and an image
# What the project wants the ratios of its benchmark to be.
AIMS = {
    "update time at 4,096: full_context / memo": (">", 1.0),
    "update time at 8,192: full_context / memo": (">=", 1.5),
    "update time at 32,768: full_context / memo": (">=", 2.5),
    "update time at 8,192: memo_reencoding / memo": (">=", 3.0),
    "update memory at 8,192: memo_checkpointed / memo": ("<=", 0.4),
    "step time at 32,768: full_context / memo": (">=", 5.0),
    "state bytes at 32,768: full_context / memo": (">=", 7.3),
    "bytes that acting allocates at 32,768: full_context / memo": (">=", 7.3),
    "update time per token, memo: at 32,768 / at 2,048": ("<=", 2.4),
    "step of memo: boundaries one by one / all together": ("<=", 1.3),
}
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt}


def table_with_aims(ratios: Sequence[Mapping[str, Any]]) -> str:
    """Return the ratios of `benchmark.json`, with what is aimed at and whether it is reached."""
    lines = [["ratio", "measured", "by CPU time", "aim", ""]]
    for ratio in ratios:
        sign, bound = AIMS[ratio["name"]]
        cpu = "" if ratio["by_cpu_time"] is None else f"{ratio['by_cpu_time']:.2f}"
        reached = "reached" if _COMPARE[sign](ratio["value"], bound) else "missed"
        lines.append([ratio["name"], f"{ratio['value']:.2f}", cpu, f"{sign} {bound:g}", reached])
    return markdown(lines)


def groups_of(comparison: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the groups of a `comparison.json`, as far as they are drawn."""

    def estimate(plain: Mapping[str, Any]) -> Estimate:
        return Estimate(*(np.array(plain[name], np.float64) for name in ("mean", "low", "high")))

    return [
        SimpleNamespace(
            **{name: group[name] for name in ("name", "environment", "seeds")},
            score=estimate(group["return_per_trial"]),
            learning=Curve(np.array(group["learning_curve"]["frames"]), estimate(group["learning_curve"])),
            in_context=Curve(np.array(group["in_context_curve"]["steps"]), estimate(group["in_context_curve"])),
        )
        for group in comparison
    ]


def main() -> None:
    """Write the images, and the table into its page."""
    benchmark = json.loads((RESULTS / "benchmark.json").read_text())
    plot_costs(benchmark["cases"], DOCS / "images/costs.png")
    for name in COMPARISONS:
        groups = groups_of(json.loads((RESULTS / f"{name}.json").read_text()))
        plot_comparison(groups, DOCS / f"images/{name}.png")
    page = DOCS / "performance.md"
    table = table_with_aims(benchmark["ratios"])
    page.write_text(re.sub(r"(?<=## In proportion\n\n)(\|.*\n)+", table + "\n", page.read_text()))


if __name__ == "__main__":
    main()
