"""How figures are written for people."""

from __future__ import annotations

from collections.abc import Iterable


def returns_in_words(*values: float) -> list[str]:
    """Write returns that are read side by side: with one decimal, or with two if all of them are below 10."""
    decimals = 2 if all(abs(value) < 10 for value in values) else 1
    return [f"{value:,.{decimals}f}" for value in values]


def listed(words: Iterable[str], separator: str = ", ", longest: int = 5) -> str:
    """Write the first words of a list, and how many more there are."""
    words = list(words)
    more = [f"and {len(words) - longest} more"] if len(words) > longest else []
    return separator.join([*words[:longest], *more])
