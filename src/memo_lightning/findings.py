"""Findings of checks, and how they are printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The finding of one check.

    Attributes:
        name: what was checked.
        problem: what is wrong and what to do about it; None if nothing is.
        note: a number or remark if nothing is wrong.
    """

    name: str
    problem: str | None = None
    note: str = ""


def print_findings(findings: Iterable[Finding]) -> list[str]:
    """Print each finding as soon as it is made, and return the names of those that are problems."""
    problems = []
    for finding in findings:
        if finding.problem:
            problems.append(finding.name)
        print(
            f"{'WRONG' if finding.problem else 'ok':<6} {finding.name:<14} {finding.problem or finding.note}",
            flush=True,
        )
    return problems
