"""Findings of rules in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OF = {
    "level": "interquartile mean of {metric}",
    "every_seed": "worst seed's {metric}",
    "ratio": "ratio of {metric}",
    "improvement": "probability of a higher {metric}",
    "sooner": "ratio of frames until return {threshold:g}",
    "benchmark": "ratio of {metric}",
}


def in_words(rule: Mapping[str, Any]) -> str:
    """Return a rule's finding in one line.

    Args:
        rule: one of the ``rules`` of a verdict.
    """
    arms = rule["arm"]
    if "against" in rule:
        arms += f" / {rule['against']}"
        if rule.get("against_evaluation", rule["evaluation"]) != rule["evaluation"]:
            arms += f" at {rule['against_evaluation']}"
    low, high = rule["interval"]
    interval = "" if low is None else f" ({number_in_words(low)} to {number_in_words(high)})"
    found = f"{number_in_words(rule['value'])}{interval}, must be {rule['bound']}"
    return f"{arms} on {rule['task']}, {rule['evaluation']}: {what_in_words(rule)} {found}"


def what_in_words(rule: Mapping[str, Any]) -> str:
    """Return the name of the number that a rule judges."""
    return _OF[rule["kind"]].format(metric=rule["metric"].replace("_", " "), threshold=rule.get("threshold") or 0.0)


def number_in_words(value: float | None) -> str:
    """Return the value of a rule as text."""
    if value is None:
        return "unknown"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
