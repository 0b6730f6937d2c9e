"""What memories cost in proportion to one another, and what is aimed at."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt}


@dataclass(frozen=True)
class Ratio:
    """One figure of a case in proportion to one of another.

    Attributes:
        name: what is compared.
        numerator: key of a case, and the name of its figure.
        denominator: the same for what it is divided by.
        aim: comparison with the figure that is aimed at, e.g. ``(">=", 1.5)``.
        cpu: name of the CPU time that belongs to the figure, where it is a time.
    """

    name: str
    numerator: tuple[str, str]
    denominator: tuple[str, str]
    aim: tuple[str, float]
    cpu: str | None = None

    def of(self, cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
        """Return the ratio's row, or None where a figure is missing."""
        value = self._divide(cases, self.numerator[1], self.denominator[1])
        if value is None:
            return None
        sign, bound = self.aim
        return {
            "name": self.name,
            "value": value,
            "by_cpu_time": self._divide(cases, self.cpu, self.cpu) if self.cpu else None,
            "aim": f"{sign} {bound:g}",
            "reached": bool(_COMPARE[sign](value, bound)),
        }

    def _divide(self, cases: Mapping[str, Mapping[str, Any]], above: str, below: str) -> float | None:
        upper = cases.get(self.numerator[0], {}).get(above)
        lower = cases.get(self.denominator[0], {}).get(below)
        return None if upper is None or lower is None else upper / lower


_FIGURES = {  # what each figure is called, and the kind of case that has it
    "update_seconds": ("update time", "update"),
    "update_peak_bytes": ("update memory", "update"),
    "step_seconds": ("step time", "acting"),
    "state_bytes": ("state bytes", "acting"),
    "acting_peak_bytes": ("bytes that acting allocates", "acting"),
}


def _over_memo(figure: str, length: int, memory: str, aim: tuple[str, float]) -> Ratio:
    """Return the ratio of a memory's figure to Memo's, at one length of context."""
    title, kind = _FIGURES[figure]
    keys = (f"{kind}/{name}/{length}" for name in (memory, "memo"))
    cpu = "update_cpu_seconds" if figure == "update_seconds" else None
    return Ratio(f"{title} at {length:,}: {memory} / memo", (next(keys), figure), (next(keys), figure), aim, cpu)


_RATIOS = (
    _over_memo("update_seconds", 4096, "full_context", (">", 1.0)),
    _over_memo("update_seconds", 8192, "full_context", (">=", 1.5)),
    _over_memo("update_seconds", 32768, "full_context", (">=", 2.5)),
    _over_memo("update_seconds", 8192, "memo_reencoding", (">=", 3.0)),
    _over_memo("update_peak_bytes", 8192, "memo_checkpointed", ("<=", 0.4)),
    _over_memo("step_seconds", 32768, "full_context", (">=", 5.0)),
    _over_memo("state_bytes", 32768, "full_context", (">=", 7.3)),
    _over_memo("acting_peak_bytes", 32768, "full_context", (">=", 7.3)),
    Ratio(
        "update time per token, memo: at 32,768 / at 2,048",
        ("update/memo/2048", "tokens_per_second"),
        ("update/memo/32768", "tokens_per_second"),
        ("<=", 2.4),
    ),
)


def ratios(cases: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return all ratios whose figures the ``cases`` of one benchmark hold."""
    found = [ratio.of(cases) for ratio in _RATIOS]
    for key, case in cases.items():
        if key.startswith("staggered/"):
            name = f"step of {case['memory']}: boundaries one by one / all together"
            found.append(Ratio(name, (key, "staggered_seconds"), (key, "lockstep_seconds"), ("<=", 1.3)).of(cases))
        if key.startswith("streaming/") and "failed" not in case:
            after = f"after {case['old_steps']:,} / {case['young_steps']:,} steps"
            name = f"streaming {case['memory']}, state bytes {after}"
            found.append(Ratio(name, (key, "old_bytes"), (key, "young_bytes"), ("<=", 1.0)).of(cases))
            name = f"streaming {case['memory']}, step {after}"
            found.append(Ratio(name, (key, "old_seconds"), (key, "young_seconds"), ("<=", 1.1)).of(cases))
    return [row for row in found if row is not None]
