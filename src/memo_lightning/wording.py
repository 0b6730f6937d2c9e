"""Numbers, lists, errors and addresses, formatted for people."""

from __future__ import annotations

import re
from collections.abc import Iterable


def returns_in_words(*values: float) -> list[str]:
    """Format returns that are compared with each other, all in the same way.

    They have one decimal; two if all of them are below 10; none from 10,000 on, and an exponent from 10 million on.
    """
    largest = max(map(abs, values), default=0.0)
    if largest >= 1e7:
        return [f"{value:.3g}" for value in values]
    decimals = 2 if largest < 10 else 1 if largest < 10_000 else 0
    return [f"{value:z,.{decimals}f}" for value in values]


def listed(words: Iterable[str], separator: str = ", ", longest: int = 5) -> str:
    """Format the first words of a list, and how many more there are."""
    words = list(words)
    more = [f"and {len(words) - longest} more"] if len(words) > longest else []
    return separator.join([*words[:longest], *more])


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, or else its type; of SQLAlchemy's, the database's own message."""
    told = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
    lines = [line.strip() for line in str(told).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def without_password(text: str) -> str:
    """Return ``text`` with the passwords of all addresses in it, ``scheme://USER:PASSWORD@HOST``, hidden."""
    return re.sub(r"(://[^/:@\s]*):[^/\s]*@", r"\1:***@", text)
