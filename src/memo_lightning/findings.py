"""What checks find, and how it is printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: what was looked at.
        problem: what is wrong and what to do about it; None where nothing is.
        note: a number or remark where nothing is wrong.
    """

    name: str
    problem: str | None = None
    note: str = ""


def print_findings(findings: Iterable[Finding]) -> list[str]:
    """Print each finding as soon as it is made; return the names of those that are problems."""
    problems = []
    for finding in findings:
        if finding.problem:
            problems.append(finding.name)
        print(
            f"{'WRONG' if finding.problem else 'ok':<6} {finding.name:<14} {finding.problem or finding.note}",
            flush=True,
        )
    return problems
