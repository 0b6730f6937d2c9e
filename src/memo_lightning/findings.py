"""Findings of checks, and how they are printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from memo_lightning.wording import without_password


@dataclass(frozen=True)
class Finding:
    """The finding of one check.

    Attributes:
        name: what was checked.
        problem: what is wrong or missing, and what to do about it; None if nothing is.
        note: a number or remark if nothing is wrong.
        optional: whether a problem is only that something optional is missing.
    """

    name: str
    problem: str | None = None
    note: str = ""
    optional: bool = False


def print_findings(findings: Iterable[Finding]) -> list[str]:
    """Print each finding as soon as it is made, without passwords, and return the names of what is wrong."""
    wrong = []
    for finding in findings:
        state = "ok" if not finding.problem else "none" if finding.optional else "WRONG"
        if state == "WRONG":
            wrong.append(finding.name)
        print(without_password(f"{state:<6} {finding.name:<16} {finding.problem or finding.note}"), flush=True)
    return wrong
